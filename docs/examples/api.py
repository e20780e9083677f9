"""Analyses an image from Python: run it with the path of one."""

from __future__ import annotations

import sys
from pathlib import Path

import vmaforensics

document = vmaforensics.analyse(sys.argv[1])

# Findings, most severe first. Addresses are hexadecimal strings, as in the JSON report.
for finding in document.findings:
    if finding.severity in ("critical", "high"):
        print(f"{finding.rule}: pid {finding.pid} ({finding.comm}) {finding.start}-{finding.end}: {finding.title}")
        for item in finding.evidence:
            print(f"  {item.view} at {item.address}: {item.what}")

# Tables are NumPy structured arrays; addresses are numbers there. document.frame("regions") is a pandas frame.
regions = document.table("regions")
writable_code = regions[[("w" in perms and "x" in perms) for perms in regions["perms"]]]
for row in writable_code:
    print(f"pid {row['pid']} ({row['comm']}): {row['start']:#x}, {row['size'] // 1024} KiB {row['perms']}")

# What bounds the verdict.
for missing in document.not_assessed:
    print(f"not assessed: {missing.what}: {missing.why}")

# A saved document renders again without the image, in any format.
Path("case.json").write_bytes(vmaforensics.render(document, "json"))
again = vmaforensics.load("case.json")
assert again == document
Path("case.html").write_bytes(vmaforensics.render(again, "html"))
