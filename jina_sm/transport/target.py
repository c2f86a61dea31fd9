from dataclasses import dataclass
from typing import Any

from jina_sm.transport.sagemaker import SageMakerTransport


@dataclass(frozen=True)
class Target:
    kind: str
    model: str
    region: str | None = None
    endpoint_name: str | None = None
    url: str | None = None


def parse(text: str) -> Target:
    raise NotImplementedError


def open_transport(t: Target, *, session: Any = None, url: Any = None, in_flight: int = 6, api_key: Any = None) -> Any:
    return SageMakerTransport(t.endpoint_name or "", t.region or "", aws=session, url=url, connections=in_flight + 2)


def open_async(t: Target, **how: Any) -> Any:
    raise NotImplementedError
