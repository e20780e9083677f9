"""Names of the ATT&CK techniques that rules refer to (MITRE ATT&CK, Enterprise, v19)."""

from __future__ import annotations

TECHNIQUES = {
    "T1014": "Rootkit",
    "T1036": "Masquerading",
    "T1564": "Hide Artifacts",
    "T1068": "Exploitation for Privilege Escalation",
    "T1055": "Process Injection",
    "T1620": "Reflective Code Loading",
    "T1070.004": "File Deletion",
}
