"""`sfumato doctor`: what this machine can do, and how to fix what is missing."""

from __future__ import annotations

from sfumato import doctor as examination


def doctor() -> int:
    """Say what this machine can do, and how to fix what is missing; exits with 1 if something needed is missing."""
    findings = examination.examine()
    print(examination.report(findings))
    return 1 if any(finding.status == "missing" for finding in findings) else 0
