"""
The published grid, asked of the local stack: a report of one instance and of two, as a page, in about two minutes.

The endpoints are as slow as a queueing model of ml.g5.xlarge says, ``--time-scale`` times as fast; passages have as
many tokens as the guide's, by what the model was fitted to. Some requests are throttled, so that there is something
to see of that too.

    make bench-demo
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys

from jina_sm import Spec, local
from jina_sm.deploy import run
from jina_sm.profile import NOMINAL

MODEL, REGION = "jina-embeddings-v3", "us-east-1"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--time-scale", type=float, default=0.07)
    options.add_argument("--repetitions", type=int, default=3)
    options.add_argument("--output", default="bench-demo.json")
    options.add_argument("--html", default="bench-demo.html")
    asked = options.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    os.environ |= local.environment(port)
    local.start_detached(
        port, 0, speed=local.Speed(profile="ml.g5.xlarge", time_scale=asked.time_scale, vectors="constant")
    )
    try:
        run.subscribe(MODEL)
        targets = []
        for count in (1, 2):
            spec = Spec(model=MODEL, regions=(REGION,), instance_count=count, name=f"bench-{count}")
            name = run.deploy(spec)[REGION].name
            targets += ["--target", f"{'one' if count == 1 else 'two'}-instance{'s'[: count - 1]}="
                        f"sagemaker://{REGION}/{name}?model={MODEL}"]  # fmt: skip
        local.fault("throttle", "InvokeEndpoint", port=port, rate=0.01)
        command = ["bench", "run", *targets, "--yes", "--token-factor", str(NOMINAL)]
        command += ["--repetitions", str(asked.repetitions), "--requests", "10"]
        command += ["--output", asked.output, "--html", asked.html]
        subprocess.run([sys.executable, "-m", "jina_sm", *command], check=True)
    finally:
        local.stop(port)


if __name__ == "__main__":
    main()
