"""
moto, behind our handlers: every service of AWS that is not ours, and the S3 that async inference reads and writes.

It is slow to import, so that is done in a thread when the stack starts. We talk to it through its own wire.
"""

from __future__ import annotations

import asyncio
import re
import string
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from jina_sm.local.protocol import Receive, Reply, Send
from jina_sm.local.quotas import METRIC, dimensions

ROLE = "jina-sm-execution"
_TRUST = """{"Version": "2012-10-17", "Statement": [
    {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}]}"""
_S3 = re.compile(r"s3://([^/]+)/(.+)")


class Behind:
    """moto, for the account of whoever asks: that of an access key from AssumeRole, else the stack's own."""

    def __init__(self, account: str) -> None:
        self._account = account
        self._served: Future[Any] = Future()
        self._thread = ThreadPoolExecutor(1, "jina_sm warm-up")

    def start(self) -> None:
        self._thread.submit(self._warm)

    def stop(self) -> None:
        self._thread.shutdown(cancel_futures=True)
        if self._served.done() and not self._served.exception():
            self._served.result().executor.shutdown()

    async def reset(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._reset)

    async def serve(self, account: str, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        moto = await asyncio.wrap_future(self._served)
        headers = [*scope["headers"], (b"x-moto-account-id", account.encode())]
        await moto({**scope, "headers": headers}, receive, send)

    async def answer(self, account: str, scope: dict[str, Any], receive: Receive) -> Reply:
        """What moto answers, which is sent by whoever asked."""
        told: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            told.append(message)

        await self.serve(account, scope, receive, send)
        headers = {
            name.decode(): value.decode() for name, value in told[0]["headers"] if name.lower() != b"content-length"
        }
        return Reply(b"".join(each.get("body", b"") for each in told[1:]), told[0]["status"], headers)

    def measure(self, account: str, region: str, counted: Mapping[tuple[str, int], int]) -> None:
        """Tells CloudWatch of invocations, by endpoint and minute."""
        from moto.cloudwatch.models import cloudwatch_backends

        data = [
            {
                "MetricName": "Invocations",
                "Dimensions": [
                    {"Name": "EndpointName", "Value": endpoint},
                    {"Name": "VariantName", "Value": "AllTraffic"},
                ],
                "Timestamp": datetime.fromtimestamp(minute * 60, UTC).replace(tzinfo=None),  # as moto has them
                "Value": float(count),
                "Unit": "Count",
            }
            for (endpoint, minute), count in counted.items()
        ]
        cloudwatch_backends[account][region].put_metric_data("AWS/SageMaker", data)

    def measure_use(self, account: str, region: str, used: Mapping[str, int]) -> None:
        """Tells CloudWatch how much of the quotas is in use, by instance type."""
        from moto.cloudwatch.models import cloudwatch_backends

        minute = datetime.now(UTC).replace(second=0, microsecond=0, tzinfo=None)
        data = [
            {
                "MetricName": METRIC[1],
                "Dimensions": [{"Name": name, "Value": value} for name, value in dimensions(kind).items()],
                "Timestamp": minute,
                "Value": float(count),
                "Unit": "None",
            }
            for kind, count in used.items()
        ]
        cloudwatch_backends[account][region].put_metric_data(METRIC[0], data)

    def log(self, account: str, region: str, group: str, stream: str, lines: Sequence[str]) -> None:
        """Writes a log, as a container's is."""
        self._served.result()  # it may still be starting
        from moto.logs.models import logs_backends

        logs, now = logs_backends[account][region], int(time.time() * 1000)
        if group not in logs.groups:
            logs.create_log_group(group, {})
        logs.create_log_stream(group, stream)
        events = [{"timestamp": now, "message": each} for each in lines]
        logs.put_log_events(group, stream, events)

    def account_of(self, key: str) -> str:
        """The account that an access key belongs to."""
        if key.startswith(("ASIA", "AKIA", "LSIA", "LKIA")) and self._served.done():
            from moto.iam.models import iam_backends

            for account, partitions in list(iam_backends.items()):
                if any(key in backend.access_keys for backend in partitions.values()):
                    return str(account)
        return self._account

    def read(self, account: str, location: str) -> bytes | None:
        """The object at an ``s3://`` location; None: there is none."""
        answer = self._s3(account, "GET", location)
        return answer.data if answer and answer.status_code == 200 else None

    def write(self, account: str, location: str, body: bytes) -> bool:
        answer = self._s3(account, "PUT", location, data=body)
        return bool(answer and answer.status_code == 200)

    def make_bucket(self, account: str, name: str) -> None:
        self._served.result()  # it may still be starting
        self._ask("s3", account, method="PUT", path=f"/{name}")

    def _s3(self, account: str, method: str, location: str, **options: Any) -> Any:
        """S3's answer; None: the location is of no object."""
        self._served.result()
        match = _S3.fullmatch(location)
        # The test client escapes what is ASCII by itself, and reads the rest as Latin-1.
        path = urllib.parse.quote(f"/{match[1]}/{match[2]}", safe=string.printable) if match else ""
        return self._ask("s3", account, method=method, path=path, **options) if path else None

    def _warm(self) -> None:
        """Makes moto and the role; then loads its slowest service before it is asked for."""
        try:
            from a2wsgi import WSGIMiddleware
            from moto.server import DomainDispatcherApplication, create_backend_app

            self._wsgi = DomainDispatcherApplication(create_backend_app)
            self._make_role()
            self._served.set_result(WSGIMiddleware(self._wsgi))
            import moto.cloudwatch.models
            import moto.cloudwatch.responses  # noqa: F401
        except BaseException as error:
            if not self._served.done():
                self._served.set_exception(error)
            raise

    def _reset(self) -> None:
        from moto.core.base_backend import BackendDict

        BackendDict.reset()
        self._make_role()

    def _make_role(self) -> None:
        form = {"Action": "CreateRole", "Version": "2010-05-08", "RoleName": ROLE, "AssumeRolePolicyDocument": _TRUST}
        self._ask("iam", self._account, data=form)

    def _ask(
        self,
        service: str,
        account: str,
        *,
        method: str = "POST",
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> Any:
        from werkzeug.test import Client

        scope = f"AWS4-HMAC-SHA256 Credential=local/20250101/us-east-1/{service}/aws4_request"
        sent = {"Authorization": scope, "x-moto-account-id": account, **(headers or {})}
        return Client(self._wsgi).open(method=method, base_url="http://127.0.0.1", headers=sent, **options)
