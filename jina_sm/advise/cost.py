"""
What each way costs: a month of it, a million tokens of it, and from which volume another is cheaper.

Money is Decimal from the first figure to the last. Every price has a source; what is not published is an assumption
that can be given instead, and the answer says which were made.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from types import MappingProxyType

from jina_sm import catalog
from jina_sm.advise.figures import WAYS, article, figures
from jina_sm.errors import InputError

HOURS_A_MONTH = Decimal(730)
QUARTER = Decimal(3)  # months
MILLION = Decimal(1_000_000)
REGIONS = ("us-east-1", "eu-central-1")  # of which prices were published
BYTES: Mapping[str, Decimal] = MappingProxyType(
    {"float32": Decimal(4), "float16": Decimal(2), "int8": Decimal(1), "binary": Decimal("0.125")}
)
MOST_TOKENS = Decimal(10) ** 15  # a month; beyond it no volume is meant
MOST_USD = Decimal(10) ** 12


@dataclass(frozen=True, kw_only=True)
class Package:
    """Prepaid tokens."""

    usd: Decimal
    tokens: Decimal

    @property
    def usd_per_1m(self) -> Decimal:
        return self.usd / self.tokens * MILLION


@dataclass(frozen=True, kw_only=True)
class Prices:
    """What things cost in one region, USD. ``published`` reads the dated figures; a live one is put over them.

    ``instance``, ``software`` and ``ec2`` are an hour of one instance; ``licence`` is a quarter of one's own
    deployment, ``licence_per_instance`` whether each instance needs one (not published; assumed not). ``sources``
    says of each where it is from. Throughputs are tokens a second on one busy instance.
    """

    region: str
    packages: tuple[Package, ...]
    instance: Decimal
    software: Decimal
    ec2: Decimal
    licence: Decimal
    licence_per_instance: bool = False
    throughput: Mapping[str, Decimal]
    storage: Decimal
    egress: Decimal
    egress_free_gb: Decimal
    sources: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        named = ("instance", "software", "ec2", "licence", "storage", "egress", "egress_free_gb")
        for name in named:
            _check(name, getattr(self, name), least=Decimal(0), most=MOST_USD)
        for way, rate in self.throughput.items():
            _check(f"tokens per second of {way}", rate, least=Decimal("0.001"), most=Decimal(10) ** 9)

    def over(self, source: str, **given: Decimal | bool | None) -> Prices:
        """These with others in their place, and where those are from; None leaves what is there."""
        known = {name: value for name, value in given.items() if value is not None}
        sources = MappingProxyType({**self.sources, **dict.fromkeys(known, source)})
        return dataclasses.replace(self, sources=sources, **known)  # type: ignore[arg-type]

    def faster(self, source: str, rates: Mapping[str, Decimal]) -> Prices:
        """These with other throughputs, by way."""
        sources = {f"throughput.{way}": source for way in rates}
        return dataclasses.replace(
            self,
            throughput=MappingProxyType({**self.throughput, **rates}),
            sources=MappingProxyType({**self.sources, **sources}),
        )


def published(region: str = "us-east-1", known: catalog.Catalog | None = None) -> Prices:
    """The published prices of a region, or us-east-1's for a region of which none are: then the sources say so.

    >>> published("eu-central-1").instance
    Decimal('1.761')
    """
    known = known or catalog.load(environ={})
    known.check_region(region)
    own, source = figures(), article()
    instances = known.prices.instances["ml.g5.xlarge"]
    there = region if region in REGIONS else REGIONS[0]
    said = source if there == region else f"{source}; of {there}, none is published for {region}"
    aws = f"{own['aws']['source']}, {own['aws']['date']}"
    ones = dict.fromkeys(("instance", "ec2"), said)
    others = dict.fromkeys(("packages", "software", "licence", "throughput"), source)
    return Prices(
        region=region,
        packages=tuple(
            Package(usd=Decimal(each["usd"]), tokens=Decimal(each["tokens"])) for each in own["api"]["packages"]
        ),
        instance=Decimal(instances[there]),
        software=Decimal(known.prices.software),
        ec2=Decimal(own["ec2"][there]),
        licence=Decimal(own["licence"]["usd_per_quarter"]),
        throughput=MappingProxyType({way: Decimal(own["throughput"][way]) for way in WAYS[1:]}),
        storage=Decimal(own["aws"]["storage_usd_per_gb_month"]),
        egress=Decimal(own["aws"]["egress_usd_per_gb"]),
        egress_free_gb=Decimal(own["aws"]["egress_free_gb"]),
        sources=MappingProxyType({**ones, **others, **dict.fromkeys(("storage", "egress"), aws)}),
    )


@dataclass(frozen=True, kw_only=True)
class Vectors:
    """What is kept: so many vectors of so many dimensions, and in what type.

    >>> Vectors(count=1_000_000, dimensions=1024, quantisation="int8").gigabytes
    Decimal('1.024')
    """

    count: int
    dimensions: int = 1024
    quantisation: str = "float32"

    def __post_init__(self) -> None:
        _check("vectors", self.count, least=Decimal(0), most=MOST_TOKENS)
        _check("dimensions", self.dimensions, least=Decimal(1), most=Decimal(65536))
        if self.quantisation not in BYTES:
            raise InputError(
                f"no quantisation {self.quantisation!r}{catalog.nearest(self.quantisation, BYTES)}",
                cure="It is float32, float16, int8 or binary.",
            )

    @property
    def bytes_each(self) -> Decimal:
        """Of one vector; bits are kept in whole bytes."""
        return (self.dimensions * BYTES[self.quantisation]).to_integral_value(ROUND_CEILING)

    @property
    def gigabytes(self) -> Decimal:
        """The vectors alone, without an index around them; a gigabyte is 10^9 bytes."""
        return self.count * self.bytes_each / Decimal(10) ** 9


@dataclass(frozen=True, kw_only=True)
class Workload:
    """A month of use.

    ``hours`` is how long the instances are in service, ``utilisation`` the share of their throughput that can be
    used while they are busy, ``peak`` how many times the mean the load is at its most. A fixed fleet is as large as
    the peak needs and idles otherwise; with ``autoscaling`` there are between ``least`` and ``most`` instances, and
    hours are paid as the load needs them. ``instances`` says how many instead. ``staff`` is USD a month by way.
    """

    tokens_per_month: Decimal | int
    hours: Decimal = HOURS_A_MONTH
    utilisation: Decimal = Decimal(1)
    peak: Decimal = Decimal(1)
    autoscaling: bool = False
    least: int = 1
    most: int | None = None
    instances: int | None = None
    vectors: Vectors | None = None
    egress_gb: Decimal = Decimal(0)
    staff: Mapping[str, Decimal] = field(default_factory=lambda: MappingProxyType({}))

    def __post_init__(self) -> None:
        _check("tokens per month", self.tokens_per_month, least=Decimal(0), most=MOST_TOKENS)
        _check("hours per month", self.hours, least=Decimal("0.01"), most=Decimal(744))
        _check("utilisation", self.utilisation, least=Decimal("0.0001"), most=Decimal(1))
        _check("the peak over the mean", self.peak, least=Decimal(1), most=Decimal(10_000))
        _check("egress_gb", self.egress_gb, least=Decimal(0), most=MOST_USD)
        for name in ("least", "most", "instances"):
            if (count := getattr(self, name)) is not None:
                _check(name, count, least=Decimal(1), most=Decimal(1_000_000))
        if self.autoscaling and self.instances is not None:
            raise InputError("either the number of instances is fixed or they scale, not both")
        if self.most is not None and self.most < self.least:
            raise InputError(f"at least {self.least} and at most {self.most} instances cannot be")
        for way, usd in self.staff.items():
            if way not in WAYS:
                raise InputError(f"no way {way!r} to pay staff for{catalog.nearest(way, WAYS)}")
            _check(f"staff of {way}", usd, least=Decimal(0), most=MOST_USD)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """A month of one way: what is paid for what, in USD, and how far the instances were used.

    ``idle`` is the share of the paid hours' throughput that nothing used; None where nothing idles.
    """

    way: str
    region: str | None
    tokens: Decimal
    items: Mapping[str, Decimal]
    instances: int
    instance_hours: Decimal
    idle: Decimal | None = None

    @property
    def total(self) -> Decimal:
        return sum(self.items.values(), Decimal(0))

    @property
    def per_1m(self) -> Decimal | None:
        """USD per million tokens, everything counted; None: there are no tokens."""
        return self.total / self.tokens * MILLION if self.tokens else None


def monthly(way: str, workload: Workload, prices: Prices | None = None) -> Cost:
    """A month of a workload by one way. Raises InputError where it does not fit into the instances allowed.

    >>> monthly("jina_api", Workload(tokens_per_month=50_000_000)).total
    Decimal('1')
    """
    if way not in WAYS:
        raise InputError(f"no way {way!r}{catalog.nearest(way, WAYS)}")
    prices = prices or published()
    tokens = Decimal(workload.tokens_per_month)
    items: dict[str, Decimal] = {}
    count, hours, idle = 0, Decimal(0), None
    if way == "jina_api":
        items["tokens"] = _prepaid(tokens, prices.packages)
    else:
        rate = prices.throughput[way] * 3600  # tokens an hour, busy all of it
        count, hours = _fleet(way, tokens, rate, workload)
        idle = 1 - tokens / (hours * rate)
        if way == "sagemaker":
            items["instances"] = hours * prices.instance
            items["software"] = hours * prices.software
        else:
            items["instances"] = hours * prices.ec2
            items["licence"] = prices.licence / QUARTER * (count if prices.licence_per_instance else 1)
        if workload.egress_gb:
            items["egress"] = max(workload.egress_gb - prices.egress_free_gb, Decimal(0)) * prices.egress
    if workload.vectors:
        items["storage"] = workload.vectors.gigabytes * prices.storage
    if workload.staff.get(way):
        items["staff"] = workload.staff[way]
    return Cost(
        way=way,
        region=None if way == "jina_api" else prices.region,
        tokens=tokens,
        items=MappingProxyType(items),
        instances=count,
        instance_hours=hours,
        idle=idle,
    )


def _prepaid(tokens: Decimal, packages: Sequence[Package]) -> Decimal:
    """What so many tokens cost if packages are used up; a large one half used may be cheaper than many small ones."""
    smallest_first = sorted(packages, key=lambda each: each.tokens)
    return min(
        (each.usd * max(tokens / each.tokens, Decimal(1)) if place else tokens * each.usd / each.tokens)
        for place, each in enumerate(smallest_first)
    )


def _fleet(way: str, tokens: Decimal, rate: Decimal, workload: Workload) -> tuple[int, Decimal]:
    """How many instances at the peak, and the hours paid."""
    usable = rate * workload.utilisation
    busy = tokens / usable  # instance-hours
    at_peak = int((busy * workload.peak / workload.hours).to_integral_value(ROUND_CEILING))
    count = workload.instances or max(at_peak, workload.least)
    allowed = workload.instances or workload.most
    if allowed is not None and at_peak > allowed:
        raise InputError(
            f"{way}: {tokens:,.0f} tokens a month need {at_peak} instances at the peak, and {allowed} may be used",
            cure="Allow more instances, more hours, or a higher throughput.",
        )
    if not workload.autoscaling:
        return count, count * workload.hours
    return count, max(busy, workload.least * workload.hours)


@dataclass(frozen=True, kw_only=True)
class Row:
    """A line of the published comparison. ``printed`` is what the article prints, for comparison only."""

    system: str
    region: str | None
    usd_per_hour: Decimal | None
    usd_per_1m_tokens: Decimal
    printed: Decimal | None
    note: str


def rows(prices: Sequence[Prices] | None = None) -> list[Row]:
    """The article's detail table, computed from its inputs: hours at its mean throughput, fully used.

    With prices of one's own, theirs instead, a region each.
    """
    given = list(prices) if prices is not None else [published(region) for region in REGIONS]
    printed = figures()["printed"]
    table = [
        Row(
            system="jina_api",
            region=None,
            usd_per_hour=None,
            usd_per_1m_tokens=each.usd_per_1m,
            printed=Decimal(said),
            note=f"{each.usd} USD for {each.tokens / 10**9:.0f}B, prepaid",
        )
        for each, said in zip(given[0].packages, printed["jina_api"], strict=True)
    ]
    for way in WAYS[1:]:
        for each in given:
            hour, parts = _published_hour(way, each)
            table.append(
                Row(
                    system=way,
                    region=each.region,
                    usd_per_hour=hour,
                    usd_per_1m_tokens=hour / (each.throughput[way] * 3600) * MILLION,
                    printed=Decimal(printed[way][each.region]) if each.region in printed[way] else None,
                    note=parts,
                )
            )
    return table


def _published_hour(way: str, prices: Prices) -> tuple[Decimal, str]:
    if way == "sagemaker":
        return prices.instance + prices.software, f"{prices.instance} + {prices.software} software"
    licence = prices.licence
    hourly = Decimal(figures()["licence"]["usd_per_hour"])
    if licence != Decimal(figures()["licence"]["usd_per_quarter"]):
        hourly = licence / (QUARTER * HOURS_A_MONTH)
    return prices.ec2 + hourly, f"{prices.ec2} + {hourly:.3f} licence"


def unexplained(table: Sequence[Row]) -> list[str]:
    """What the article prints and its own inputs do not give, in sentences."""
    said = [
        f"{row.system} in {row.region}: printed {row.printed}, the inputs give {row.usd_per_1m_tokens:.4f}"
        for row in table
        if row.region and row.printed is not None and row.printed != row.usd_per_1m_tokens.quantize(row.printed)
    ]
    summary = figures()["printed"]["summary"]
    lowest = min(row.usd_per_1m_tokens for row in table if row.system == "self_hosted")
    said.append(
        f"self_hosted in the summary: printed {summary['self_hosted']}, and no input of the detail table gives less "
        f"than {lowest:.2f}"
    )
    return said


@dataclass(frozen=True, kw_only=True)
class Crossing:
    """From this many tokens a month on (until the next crossing), ``cheaper`` costs less than ``than``."""

    tokens: Decimal
    cheaper: str
    than: str


def break_even(
    one: str, other: str, workload: Workload, prices: Prices | None = None, *, most: Decimal = Decimal(10) ** 12
) -> list[Crossing]:
    """Where the cheaper of two ways changes, by tokens a month, up to ``most``; the first is from nothing on.

    Of the workload everything holds but its tokens. Instances come whole, so a pair can cross more than once. How far
    it looks, ``searched`` says.

    >>> [crossing.cheaper for crossing in break_even("jina_api", "sagemaker", Workload(tokens_per_month=0))]
    ['jina_api']
    """
    prices = prices or published()

    def difference(tokens: Decimal) -> Decimal | None:
        there = dataclasses.replace(workload, tokens_per_month=tokens)
        try:
            return monthly(one, there, prices).total - monthly(other, there, prices).total
        except InputError:  # more than the instances allowed can do
            return None

    _check("the most tokens", most, least=Decimal(1), most=MOST_TOKENS)
    found: list[Crossing] = []

    def note(tokens: Decimal, gap: Decimal) -> None:
        cheaper, than = (one, other) if gap < 0 else (other, one)
        if gap and (not found or found[-1].cheaper != cheaper):
            found.append(Crossing(tokens=tokens, cheaper=cheaper, than=than))

    for low, high in _pieces(workload, prices, most):
        # Between two steps the costs are straight lines, so the ends and one crossing are all there is.
        first, last = difference(low), difference(high)
        if first is None or last is None:
            break
        note(low, first)
        if first * last < 0:
            crossed = low + (high - low) * first / (first - last)
            note(crossed.to_integral_value(ROUND_CEILING), last)
    return found


def searched(workload: Workload, prices: Prices | None = None, most: Decimal = Decimal(10) ** 12) -> Decimal:
    """How many tokens a month ``break_even`` looks up to: ``most``, or what 2,000 instances can do."""
    prices = prices or published()
    slowest = min(prices.throughput[way] for way in WAYS[1:])
    return min(most, slowest * 3600 * workload.utilisation * workload.hours / workload.peak * 2000)


def _pieces(workload: Workload, prices: Prices, most: Decimal) -> Iterator[tuple[Decimal, Decimal]]:
    """Stretches of volume within which every cost is a straight line; a step is just after a capacity."""
    most = searched(workload, prices, most)
    steps = {Decimal(0), most}
    for package in prices.packages:
        steps |= {package.tokens, *(package.usd / each.usd * each.tokens for each in prices.packages)}
    for way in WAYS[1:]:
        one = prices.throughput[way] * 3600 * workload.utilisation * workload.hours
        steps |= {one * workload.least, one * workload.least / workload.peak}
        steps |= {one / workload.peak * number for number in range(1, int(most / (one / workload.peak)) + 1)}
    ends = sorted({step.to_integral_value(ROUND_FLOOR) for step in steps if 0 <= step <= most})
    for low, high in itertools.pairwise(ends):
        yield (low + 1 if low else low), high


def _check(name: str, value: Decimal | int, *, least: Decimal, most: Decimal) -> None:
    number = Decimal(value)
    if not number.is_finite() or not least <= number <= most:
        raise InputError(f"{name} is from {least:,f} to {most:,f}, not {value}")
