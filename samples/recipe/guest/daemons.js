// Two workers that compile, allocate and forget; each tells the first thread.
const { Worker, isMainThread, parentPort } = require("worker_threads");

if (isMainThread) {
	const start = () => new Worker(__filename).on("message", () => 0).on("exit", start);
	start();
	start();
} else {
	let rounds = 0;
	setInterval(() => {
		const twice = new Function("x", `return x * 2 + ${rounds}`);
		const kept = [];
		for (let i = 0; i < 20000; i++) kept.push({ i, text: String(twice(i)) });
		parentPort.postMessage(kept.length);
		if (++rounds > 50) process.exit(0);
	}, 50);
}
