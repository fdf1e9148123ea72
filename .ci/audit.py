"""Look up known vulnerabilities of the pinned dependencies; say plainly when nobody could be asked.

python .ci/audit.py constraints.txt       exit status 1 when one is found
"""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec


def main() -> int:
    """Run pip-audit on the file that is named; a package that the service does not know counts as not looked at."""
    command = [
        "-m",
        "pip_audit",
        "-r",
        sys.argv[1],
        "--no-deps",
        "--disable-pip",
        "--timeout",
        "20",
        "-f",
        "json",
    ]
    if find_spec("pip_audit") is None:
        print("dependency audit: pip-audit is not installed; install the extra dev")
        return 1
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False)  # noqa: S603
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1]
        print(f"dependency audit: the audit service was unreachable, nothing was looked up ({reason})")
        return 0
    if not packages:
        print(f"dependency audit: {sys.argv[1]} names no package")
        return 1
    known = [package for package in packages if "vulns" in package]
    found = [f"{each['name']} {each['version']}: {vuln['id']}" for each in known for vuln in each["vulns"]]
    if not known:
        print("dependency audit: the audit service was unreachable, nothing was looked up")
    else:
        print(
            f"dependency audit: {len(known)} of {len(packages)} packages looked up, {len(found)} vulnerabilities"
        )
    for line in found:
        print(line)
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
