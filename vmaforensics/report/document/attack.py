"""Names of the ATT&CK techniques that rules refer to (MITRE ATT&CK, Enterprise, v19)."""

from __future__ import annotations

TECHNIQUES = {
    "T1014": "Rootkit",
    "T1036": "Masquerading",
    "T1036.004": "Masquerade Task or Service",
    "T1036.005": "Match Legitimate Name or Location",
    "T1564": "Hide Artifacts",
    "T1068": "Exploitation for Privilege Escalation",
    "T1055": "Process Injection",
    "T1055.014": "VDSO Hijacking",
    "T1620": "Reflective Code Loading",
    "T1070.004": "File Deletion",
}
