"""
Where one model is in service, as one value: what ``deploy`` returns, a client takes, and a file can keep.

A mapping of region to endpoint, home first. It says what was when it was made and asks nobody: a client finds out by
itself what has become of it since.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, Unpack

from jina_sm.errors import InputError
from jina_sm.transport.target import Target, parse

if TYPE_CHECKING:
    from jina_sm.client import AsyncClient, Client, Settings

# Statuses in which an endpoint answers. A variant that is being changed serves as it was meanwhile.
SERVING = frozenset({"InService", "Updating", "SystemUpdating", "RollingBack", "UpdateRollbackFailed"})


class Placed(Protocol):
    """What a fleet has to know of an endpoint."""

    @property
    def name(self) -> str: ...
    @property
    def status(self) -> str: ...
    @property
    def instances(self) -> int: ...


@dataclass(frozen=True, kw_only=True)
class Place:
    """An endpoint as a file keeps it."""

    name: str
    status: str = "InService"
    instances: int = 0


Each_co = TypeVar("Each_co", bound=Placed, covariant=True)


@dataclass(frozen=True, eq=False)
class Fleet(Mapping[str, Each_co], Generic[Each_co]):
    """One model's endpoints by region, home first. Raises InputError for what cannot be one.

    >>> fleet = deploy(Spec(model="jina-embeddings-v3", regions=("us-east-1", "eu-central-1")))
    >>> fleet["us-east-1"].status
    'InService'
    >>> with fleet.client() as client:  # or Client(fleet), AsyncClient(fleet)
    ...     client.embed(["a text"])
    """

    model: str
    endpoints: Mapping[str, Each_co]

    def __post_init__(self) -> None:
        for region, endpoint in self.endpoints.items():
            Target("sagemaker", self.model, region=region, endpoint_name=endpoint.name)

    def __getitem__(self, region: str) -> Each_co:
        return self.endpoints[region]

    def __iter__(self) -> Iterator[str]:
        return iter(self.endpoints)

    def __len__(self) -> int:
        return len(self.endpoints)

    def __repr__(self) -> str:
        named = (f"{region} {each.name} {each.status} x{each.instances}" for region, each in self.items())
        return f"Fleet({self.model}: {', '.join(named) or 'nowhere'})"

    @property
    def serving(self) -> dict[str, Each_co]:
        """Those that answer."""
        return {region: each for region, each in self.items() if each.status in SERVING}

    @property
    def targets(self) -> tuple[str, ...]:
        """Where those are that answer, each as a string that ``Client.at`` and ``JINA_SM_TARGETS`` take."""
        return tuple(
            str(Target("sagemaker", self.model, region=region, endpoint_name=each.name))
            for region, each in self.serving.items()
        )

    @property
    def instances(self) -> tuple[int, ...]:
        """How many instances each of the targets has."""
        return tuple(each.instances for each in self.serving.values())

    def client(self, *, session: Any = None, url: str | None = None, **settings: Unpack[Settings]) -> Client:
        """A client of all of it. What is taken is the client's."""
        from jina_sm.client import Client

        return Client(self, session=session, url=url, **settings)

    def async_client(self, *, session: Any = None, url: str | None = None, **settings: Unpack[Settings]) -> AsyncClient:
        """As ``client``, for one event loop."""
        from jina_sm.client import AsyncClient

        return AsyncClient(self, session=session, url=url, **settings)

    def to_json(self) -> str:
        """As JSON, for another process or another day."""
        import orjson

        told = {
            region: {"name": each.name, "status": each.status, "instances": each.instances}
            for region, each in self.items()
        }
        return orjson.dumps({"model": self.model, "endpoints": told}).decode()

    @staticmethod
    def from_json(text: str | bytes) -> Fleet[Place]:
        """What ``to_json`` gave. Raises InputError that names what does not fit."""
        import orjson

        try:
            said = orjson.loads(text)
        except orjson.JSONDecodeError as error:
            raise InputError(f"a fleet is JSON, and this is not: {error}") from None
        model, endpoints = (said.get("model"), said.get("endpoints")) if isinstance(said, dict) else (None, None)
        if not isinstance(model, str) or not isinstance(endpoints, dict):
            raise InputError('a fleet has a "model" and "endpoints" by region')
        return Fleet(model, {region: _place(region, each) for region, each in endpoints.items()})

    @staticmethod
    def at(*targets: str) -> Fleet[Place]:
        """The fleet at targets like ``sagemaker://REGION/ENDPOINT?model=KEY``, all of one model. Raises InputError."""
        found = [parse(each) for each in targets]
        if len({each.model for each in found}) != 1 or any(each.kind != "sagemaker" for each in found):
            raise InputError("a fleet is at targets of SageMaker, all of one model")
        places = {each.region or "": Place(name=each.endpoint_name or "") for each in found}
        if len(places) < len(found):
            raise InputError("a fleet has one endpoint a region, and a region is named twice")
        return Fleet(found[0].model, places)


def _place(region: str, said: Any) -> Place:
    kinds = {"name": str, "status": str, "instances": int}
    if not isinstance(said, dict) or any(type(said.get(name)) is not kind for name, kind in kinds.items()):
        raise InputError(f"the fleet's endpoint in {region} has a name, a status and a number of instances")
    if said["instances"] < 0:
        raise InputError(f"the fleet's endpoint in {region} cannot have {said['instances']} instances")
    return Place(**{name: said[name] for name in kinds})
