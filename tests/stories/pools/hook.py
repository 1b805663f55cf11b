"""A hook as an operator would write one: reads what ought to be, starts and stops workers that dial in."""

import json
import os
import signal
import subprocess
import sys

folder, program, server = sys.argv[1:4]
asked = json.load(sys.stdin)
with open(os.path.join(folder, "asked"), "a", encoding="utf-8") as log:
    log.write(json.dumps(asked) + "\n")
for name in asked["victims"]:
    pid_file = os.path.join(folder, name + ".pid")
    if os.path.exists(pid_file):
        with open(pid_file, encoding="utf-8") as file:
            os.kill(int(file.read()), signal.SIGTERM)
        os.remove(pid_file)
for name in asked["added"]:
    pid_file = os.path.join(folder, name + ".pid")
    if not os.path.exists(pid_file):
        # Its own session: what is left of a hook's process group is killed when the hook ends.
        worker = subprocess.Popen(
            [program, "--connect", server, "--name", name, "--slots", "1", "--warm", "0"],
            start_new_session=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=open(os.path.join(folder, name + ".log"), "ab"),
        )
        with open(pid_file, "w", encoding="utf-8") as file:
            file.write(str(worker.pid))
print("now", asked["to"])
