"""
The local stack: one ASGI app that plain boto3 takes for AWS.

SageMaker's hosting and runtime, the autoscaling of its endpoints, schedules, the Marketplace and the price list are
ours; every other service is moto's, and Jina's hosted API is there too, at its own paths. Service and region are read
from the signature's scope, since nothing else tells them apart on one port; the signature itself is not checked. Two
access key ids are there to try what goes wrong: EXPIRED has an expired token, and DENIED may call nothing of ours.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
import urllib.parse
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import botocore
import orjson

from jina_sm import catalog as catalogue
from jina_sm.clock import Clock
from jina_sm.errors import InputError
from jina_sm.local import api, container, marketplace, permissions, quotas, runtime, sagemaker, scaling, scheduler
from jina_sm.local.acting import GONE, Stage, sent
from jina_sm.local.asynchronous import Asynchronous
from jina_sm.local.behind import Behind
from jina_sm.local.constant import Constant, Instant
from jina_sm.local.container import Broken
from jina_sm.local.faults import UNHEALTHY, Fault, disordered
from jina_sm.local.models import Encoder, Rounds, UniversalSentenceEncoder
from jina_sm.local.pace import TIMED_OUT, Paced, Paces
from jina_sm.local.protocol import Receive, Refusal, Reply, Send, answer, refused, service
from jina_sm.local.scenario import Scenario
from jina_sm.local.state import ORDINARY, Endpoint, Fate, State, wall
from jina_sm.profile import Profile

_log = logging.getLogger(__name__)
VECTORS: Mapping[str, str] = {
    "stand-in": "stand-in: Universal Sentence Encoder multilingual v3, not Jina's model",
    "constant": "constant: a hash of each text, without meaning",
}
_SCOPE = re.compile(r"Credential=([^/,]+)/\d+/(?:([a-z0-9-]+)/)?([a-z0-9-]+)/aws4_request")  # sigv4a has no region
_INVOCATION = re.compile(r"/endpoints/([^/]+)/([a-z-]+)")
_INVOKES = {
    "invocations": "InvokeEndpoint",
    "async-invocations": "InvokeEndpointAsync",
    "invocations-response-stream": "InvokeEndpointWithResponseStream",
}
_TARGETS = {
    "SageMaker": "sagemaker",
    "AWSMPCommerceService_v20200301": "marketplace-agreement",
    "AWSPriceListService": "pricing",
    "ServiceQuotasV20190624": "service-quotas",
    "AnyScaleFrontendService": "application-autoscaling",
}
# Of moto's, those that a fault may strike.
_IAM = frozenset({"CreateRole", "PutRolePolicy", "DeleteRolePolicy", "DeleteRole"})
_LOGS = frozenset({"DescribeLogStreams", "GetLogEvents"})

# What a call makes, and whose name the call gives it.
_MADE = {"CreateModel": "ModelName", "CreateEndpointConfig": "EndpointConfigName", "CreateEndpoint": "EndpointName"}


@dataclass(frozen=True)
class _Call:
    """One request to a service of ours, in the name of an account."""

    state: State
    service: str
    operation: str
    region: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Stack:
    """AWS on this machine. What moto keeps is the process's, so two stacks in one share that half.

    ``account`` is whose it is; an access key from AssumeRole of another account's role has that account's things.

    ``ready_after_s`` is how long an endpoint takes to come into service, by the clock. ``profile``: answers take as
    long as a GPU's would, on ``instances`` or, by default, on as many as the endpoint's config says.
    """

    def __init__(
        self,
        *,
        ready_after_s: float = 0.0,
        clock: Clock | None = None,
        account: str = "123456789012",
        disabled_regions: frozenset[str] = frozenset(),
        catalog: catalogue.Catalog | None = None,
        model: Encoder | None = None,
        profile: Profile | None = None,
        instances: int | None = None,
        scenario: Scenario | None = None,
    ) -> None:
        known = catalog or catalogue.load()
        self.state = State(
            account=account, catalog=known, clock=clock or Clock(), ready_after_s=ready_after_s, scenario=scenario
        )
        self._states = {account: self.state}
        self.stage = Stage(operations)
        self.disabled_regions = disabled_regions
        self.on_ready: Callable[[], None] = lambda: None
        self.on_shutdown: Callable[[], None] = lambda: None
        self.speed: Mapping[str, Any] = {}  # as it was started, for who asks
        self._rounds = Instant(model) if isinstance(model, Constant) else Rounds(model or UniversalSentenceEncoder())
        self._paces = Paces(profile, instances) if profile else None
        self._behind = Behind(account)
        self._asynchronous = Asynchronous(self._behind)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        try:
            if scope["type"] == "lifespan":
                await self._live(receive, send)
            elif scope["method"] == "POST" and scope["path"] in api.OPERATIONS:
                body = await _body(receive)
                reply = await api.answer(self.state.catalog, self._rounds, self.stage, scope, body, receive, send)
                if reply is not GONE:
                    await sent(send, reply)
            elif scope["path"].startswith("/_jina/"):
                await sent(send, await self._own(scope["method"], scope["path"], await _body(receive)))
            else:
                await self._aws(scope, receive, send)
        except _Left:
            return  # what has come in part only has no effect, and nobody is there to be answered

    async def reset(self) -> None:
        """Forgets all that was made, here and in moto, and every fault."""
        self.stage.clear()
        self.state.reset()
        self._states = {self.state.account: self.state}
        await self._behind.reset()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._rounds.start()
        self._behind.start()
        await send({"type": "lifespan.startup.complete"})
        self.on_ready()
        await receive()
        self._asynchronous.stop()
        self._behind.stop()
        await asyncio.to_thread(self._rounds.stop)
        await send({"type": "lifespan.shutdown.complete"})

    async def _own(self, method: str, path: str, body: bytes) -> Reply:
        match (method, path):
            case ("GET", "/_jina/health"):
                vectors = VECTORS["constant" if isinstance(self._rounds.encoder, Constant) else "stand-in"]
                said = {"status": "ok", "account": self.state.account, "vectors": vectors, "pid": os.getpid()}
                return Reply(orjson.dumps({**said, "speed": self.speed}))
            case ("POST", "/_jina/reset"):
                await self.reset()
            case ("POST", "/_jina/shutdown"):
                self.on_shutdown()
            case ("GET", "/_jina/scenario"):
                return Reply(orjson.dumps(self.state.scenario.told()))
            case ("POST", "/_jina/scenario"):
                try:
                    changed = self.state.scenario.changed(orjson.loads(body))
                    for state in self._states.values():
                        state.scenario = changed
                except (InputError, TypeError, ValueError) as error:
                    return Reply(orjson.dumps({"message": str(error)}), 400)
            case _:
                return self.stage.door(method, path, body)
        return Reply()

    async def _aws(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        headers = {name.decode("latin-1").lower(): _text(value) for name, value in scope["headers"]}
        query = urllib.parse.parse_qs(scope["query_string"].decode("latin-1"))
        # A link signed for S3 says the same in its query, or, as of old, the key alone.
        signature = headers.get("authorization") or f"Credential={query.get('X-Amz-Credential', [''])[0]}"
        scoped = _SCOPE.search(signature)
        key, region, signed = scoped.groups() if scoped else (query.get("AWSAccessKeyId", [""])[0], None, "")
        region = region or "us-east-1"
        name, operation = _addressed(signed, headers.get("x-amz-target", ""), scope["path"])
        body: bytes | None = None
        if signed == "scheduler":
            name = signed
            operation, body = scheduler.asked(scope["method"], scope["path"], query, await _body(receive))
        elif name == "application-autoscaling":
            body = await _body(receive)
            if not scaling.ours(body):  # of another service than SageMaker
                name = ""
        if refusal := self._refusal(key, region, name, operation):
            if body is None:
                await _body(receive)
            await sent(send, refused(name or "sagemaker", refusal) if _json(name, headers) else _xml(refusal))
        elif name:
            state = self._state(self._behind.account_of(key))
            body = await _body(receive) if body is None else body
            call = _Call(state, name, operation, region, scope["path"], headers, body)
            try:
                reply = await self._struck(call, receive, send)
            except Exception as error:
                _log.exception("%s %s", name, operation)
                words = f"the local stack failed: {error!r}"
                reply = refused(name, Refusal("InternalFailure", words, status=500))
            if reply is not GONE:
                await sent(send, reply)
        else:
            await self._motos(key, region, signed, scope, receive if body is None else _again(body, receive), send)

    async def _motos(
        self, key: str, region: str, signed: str, scope: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        account = self._behind.account_of(key)
        if signed == "iam":
            body = await _body(receive)
            action = urllib.parse.parse_qs(body.decode(errors="replace")).get("Action", [""])[0]
            denied = self.state.scenario.denied
            if permissions.denies(denied, f"iam:{action}", region):
                words = permissions.refusal(self._user(key), f"iam:{action}")
                return await sent(send, _xml(Refusal("AccessDenied", words, status=403)))
            if simulation := permissions.simulated(body, denied=["*:*"] if key == "DENIED" else denied):
                return await sent(send, simulation)
            receive = _again(body, receive)
            if action in _IAM:
                return await self._struck_behind("iam", account, action, region, scope, receive, send)
        elif signed == "logs":
            target = dict(scope["headers"]).get(b"x-amz-target", b"").decode("latin-1")
            if (action := target.rpartition(".")[2]) in _LOGS:
                return await self._struck_behind("logs", account, action, region, scope, receive, send)
        elif signed == "monitoring":
            self._measure(self._state(account), region)
        return await self._behind.serve(account, scope, receive, send)

    async def _struck_behind(
        self, name: str, account: str, action: str, region: str, scope: dict[str, Any], receive: Receive, send: Send
    ) -> None:
        """One of moto's calls, through whatever faults it meets."""
        # All of it is read first: what comes after that is the caller's leaving.
        body, firing = await _body(receive), self.stage.faults.firing(action, region)
        match await self.stage.before(firing, name, receive, send):
            case Refusal() as refusal:
                await sent(send, _xml(refusal) if name == "iam" else refused(name, refusal))
            case Reply() as reply if reply is not GONE:
                await sent(send, reply)
            case None:
                reply = await self._behind.answer(account, scope, _again(body, receive))
                reply = await self.stage.after(firing, reply, receive, send)
                if reply is not GONE:
                    await sent(send, reply)

    def _measure(self, state: State, region: str) -> None:
        """Tells CloudWatch how often each endpoint was invoked since it was last told."""
        counted = state.region(region).invocations
        self._behind.measure(state.account, region, dict(counted))
        self._behind.measure_use(state.account, region, quotas.in_use(state.region(region)))
        counted.clear()

    def _state(self, account: str) -> State:
        if account not in self._states:
            self._states[account] = self.state.of_another(account)
        return self._states[account]

    def _refusal(self, key: str, region: str, name: str, operation: str) -> Refusal | None:
        if not key:
            return Refusal("MissingAuthenticationToken", "Missing Authentication Token", status=403)
        # Services of JSON alone answer all with 400, the rest with what HTTP has for it.
        status = 403 if name and service(name).metadata["protocol"] != "json" else 400
        if region in self.disabled_regions:
            words = "The security token included in the request is invalid."
            return Refusal("UnrecognizedClientException", words, status=status)
        if key == "EXPIRED":
            words = "The security token included in the request is expired"
            return Refusal("ExpiredTokenException", words, status=status)
        if key == "DENIED" and name:
            action = f"{service(name).signing_name}:{operation}"
            message = f"User: {self._user(key)} is not authorized to perform: {action}"
            return Refusal("AccessDeniedException", f"{message} on resource: *", status=status)
        if name and (action := self._denied(region, f"{service(name).signing_name}:{operation}")):
            return Refusal("AccessDeniedException", permissions.refusal(self._user(key), action), status=status)
        return None

    def _denied(self, region: str, action: str) -> str:
        """The action that the scenario denies, of those that the call takes; "": none."""
        taken = [action, *(["iam:PassRole"] if action == "sagemaker:CreateModel" else [])]
        return next((each for each in taken if permissions.denies(self.state.scenario.denied, each, region)), "")

    def _user(self, key: str) -> str:
        return f"arn:aws:iam::{self.state.account}:user/{key}"

    async def _struck(self, call: _Call, receive: Receive, send: Send) -> Reply:
        """The answer to a call, through whatever faults it meets."""
        firing = self.stage.faults.firing(call.operation, call.region)
        match await self.stage.before(firing, call.service, receive, send):
            case Refusal() as refusal:
                return refused(call.service, refusal)
            case Reply() as reply:
                return reply
        kinds = {tally.fault.kind: tally.fault for tally in firing}
        failed = kinds.get("failed")
        if unready := kinds.get("never-ready"):
            fate = Fate(lasts=unready.seconds or float("inf"))
        elif failed:
            fate = Fate(lasts=failed.seconds, failure=failed.why)
        else:
            fate = ORDINARY
        reply = await self._answered(call, fate, kinds)
        if reply.status == 200 and failed and failed.reason == "health":
            await asyncio.to_thread(self._log, call)
        if reply.status == 200 and (hidden := kinds.get("hidden")):
            self._hide(call, reply, hidden.reads)
        return await self.stage.after(firing, reply, receive, send)

    async def _answered(self, call: _Call, fate: Fate, kinds: Mapping[str, Fault]) -> Reply:
        state = call.state
        region = state.region(call.region)
        if match := _INVOCATION.fullmatch(call.path):
            act = {
                "InvokeEndpoint": runtime.invoke,
                "InvokeEndpointWithResponseStream": runtime.stream,
                "InvokeEndpointAsync": self._asynchronous.invoke,
            }.get(call.operation)

            async def asks(endpoint: Endpoint, content_type: str, body: bytes) -> bytes:
                # The container's faults are its own, however it is asked.
                if broken := kinds.get("model-error"):
                    status = 500 if broken.status is None else broken.status
                    usual = "the model failed, as it was asked to" if status else TIMED_OUT
                    raise Broken(status, broken.reason or usual)
                encoder = self._encoder(endpoint)
                answer = await runtime.ask(state, region, endpoint, call.headers, content_type, body, encoder)
                for kind in kinds.keys() & {"reorder", "drop"}:
                    answer = disordered(kind, answer)
                return answer

            if act:
                wrong = runtime.unacceptable(region, call.operation, match[1], call.headers, call.body)
                if wrong is None and match[1] in region.endpoints:
                    region.invocations[match[1], int(wall()) // 60] += 1
                return wrong or await act(region, match[1], call.headers, call.body, asks)
        hosting = sagemaker.Hosting(state, region)
        scheduler.fire(region, hosting)
        rooms: Mapping[str, object] = {
            "sagemaker": sagemaker.Hosting(state, region, fate),
            "application-autoscaling": scaling.Scaling(region, hosting),
            "scheduler": scheduler.Scheduler(region),
            "marketplace-discovery": marketplace.Discovery(state),
            "marketplace-agreement": marketplace.Agreements(state),
            "pricing": marketplace.PriceList(state),
            "service-quotas": quotas.Quotas(state, region),
        }
        asked = call.body.decode(errors="replace")
        with self.stage.visible.during(call.operation, asked, account=state.account, region=region.name):
            return answer(call.service, call.operation, call.body, rooms.get(call.service))

    def _log(self, call: _Call) -> None:
        """What a container writes that starts and does not come up."""
        name = orjson.loads(call.body)["EndpointName"]
        stream = f"AllTraffic/i-{uuid.uuid4().hex[:17]}"
        group = f"/aws/sagemaker/Endpoints/{name}"
        self._behind.log(call.state.account, call.region, group, stream, UNHEALTHY)

    def _hide(self, call: _Call, reply: Reply, reads: int) -> None:
        region = call.state.region(call.region)
        homes: Mapping[str, Callable[[], dict[str, Any]]] = {
            "CreateModel": lambda: region.models,
            "CreateEndpointConfig": lambda: region.configs,
            "CreateEndpoint": lambda: region.endpoints,
            "AcceptAgreementRequest": lambda: call.state.agreements,
        }
        said = orjson.loads(call.body) | orjson.loads(reply.body)
        name = said[_MADE.get(call.operation, "agreementId")]
        where, account = homes[call.operation], call.state.account
        self.stage.visible.hide(call.operation, name, where, reads, account=account, region=call.region)

    def _encoder(self, endpoint: Endpoint) -> Rounds:
        if self._paces is None or endpoint.serving is None:
            return self._rounds
        return Paced(self._rounds, self._paces.of(endpoint.serving))


def _addressed(signed: str, target: str, path: str) -> tuple[str, str]:
    """The service of ours and the operation that a request is for; ("", "") for moto's."""
    prefix, _, operation = target.partition(".")
    if prefix in _TARGETS:
        return _TARGETS[prefix], operation
    if signed == "sagemaker" and (match := _INVOCATION.fullmatch(path)):
        return "sagemaker-runtime", _INVOKES.get(match[2], match[2])
    if signed == "aws-marketplace":  # /2026-02-05/getOffer
        operation = path.rpartition("/")[2]
        return "marketplace-discovery", operation[:1].upper() + operation[1:]
    return "", ""


@functools.cache
def operations() -> frozenset[str]:
    """All that the stack answers by itself."""
    rooms: Mapping[str, type] = {
        "sagemaker": sagemaker.Hosting,
        "application-autoscaling": scaling.Scaling,
        "scheduler": scheduler.Scheduler,
        "marketplace-discovery": marketplace.Discovery,
        "marketplace-agreement": marketplace.Agreements,
        "pricing": marketplace.PriceList,
        "service-quotas": quotas.Quotas,
    }
    ours = (
        operation
        for name, room in rooms.items()
        for operation in service(name).operation_names
        if hasattr(room, botocore.xform_name(operation))
    )
    return frozenset({*ours, *_IAM, *_LOGS, *_INVOKES.values(), *api.OPERATIONS.values()})


def _json(name: str, headers: Mapping[str, str]) -> bool:
    return bool(name) or "json" in headers.get("content-type", "")


def _xml(refusal: Refusal) -> Reply:
    """As IAM, STS and S3 speak."""
    said = f"<ErrorResponse><Error><Code>{refusal.code}</Code><Message>{refusal.message}</Message></Error>"
    return Reply(f"{said}</ErrorResponse>".encode(), refusal.status, {"Content-Type": "text/xml"})


class _Left(Exception):
    """The caller went away in the middle of its request."""


def _text(value: bytes) -> str:
    """A header's value. boto3 writes UTF-8, and older software what it likes."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


async def _body(receive: Receive) -> bytes:
    """The body; of one over the limit, enough to tell. It is read to its end, or the caller would see no answer."""
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Left
        if size <= container.BODY_LIMIT:
            parts.append(message.get("body", b""))
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    """``receive``, with a body that has been read already."""
    first = [{"type": "http.request", "body": body}]

    async def received() -> dict[str, Any]:
        return first.pop() if first else await receive()

    return received
