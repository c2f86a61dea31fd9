"""
What a preflight has to know, as AWS tells it. Every look gives what it found or the error that it met.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from jina_sm import catalog, errors
from jina_sm.deploy import permissions as iam
from jina_sm.deploy import preflight
from jina_sm.deploy.aws import ControlPlane, NotThereError, disabled, identity
from jina_sm.deploy.marketplace import Marketplace
from jina_sm.deploy.permissions import Decision, Permission, Question
from jina_sm.deploy.plan import Call, Desired, State, Step
from jina_sm.deploy.preflight import Caller, Check, Need, Package, Role, Room, Use
from jina_sm.deploy.quotas import Quotas, uses

HOME = "us-east-1"  # a region that no account can do without
_THREADS = 4  # IAM is asked with care: it is one for all regions
_log = logging.getLogger(__name__)
_Found = TypeVar("_Found")


def attempt(look: Callable[[], _Found]) -> _Found | errors.JinaSMError:
    """What the look found; else the error. What was not foreseen is one too: no deployment fails for a look."""
    try:
        return look()
    except errors.JinaSMError as error:
        return error
    except Exception as error:
        _log.debug("a look failed", exc_info=True)
        return errors.JinaSMError(f"unexpected {type(error).__name__}: {error}")


def caller(aws: Any, regions: Sequence[str]) -> Caller:
    """Who asks. A first region that is not enabled says nothing about the credentials. Raises AuthError."""
    try:
        return Caller(arn=identity(aws, regions[0]), region=regions[0])
    except errors.AuthError as error:
        if not disabled(error) or regions[0] == HOME:
            raise
        try:
            return Caller(arn=identity(aws, HOME), region=HOME)
        except errors.JinaSMError:
            raise error from None


def observed(control: ControlPlane, endpoint: str) -> State:
    """What a deployment to that endpoint has to know. Raises DeployError, also for a region that is not enabled."""
    try:
        return control.observe(endpoint)
    except errors.JinaSMError as error:
        if disabled(error):
            check = preflight.region_enabled(control.region, error, disabled=True)
            words = f"region {control.region} is not enabled for the account"
            raise errors.DeployError(words, cure=check.cure, region=control.region, code=error.code) from None
        raise


def role(control: ControlPlane, arn: str) -> Role:
    """Raises NotThereError, AuthError, ..."""
    try:
        said = _looked_up(control, arn.rpartition("/")[2])
    except NotThereError:
        raise NotThereError(f"there is no role {arn}", cure="Give another with --role-arn.") from None
    return Role(arn=arn, trust=said.get("AssumeRolePolicyDocument"))


def _looked_up(control: ControlPlane, name: str) -> Mapping[str, Any]:
    """What IAM says of a role, also to who may list the roles and not look at this one. Raises as ``role``."""
    try:
        found: Mapping[str, Any] = control.asked("iam", "get_role", RoleName=name)["Role"]
        return found
    except errors.AuthError as refused:
        with contextlib.suppress(errors.AuthError):
            pages = control.pages("iam", "list_roles", page_size=1000)
            for each in (each for page in pages for each in page["Roles"] if each["RoleName"] == name):
                listed: Mapping[str, Any] = each
                return listed
        refused.cure = "`jina-sm iam viewer` prints a policy with iam:ListRoles, which is enough."
        raise


def package(control: ControlPlane, arn: str) -> Package:
    """Raises DeployError; ``missing`` tells whether that is how AWS says that there is none."""
    said = control.asked("sagemaker", "describe_model_package", ModelPackageName=arn)
    types = said.get("InferenceSpecification", {}).get("SupportedRealtimeInferenceInstanceTypes") or ()
    return Package(arn=arn, types=tuple(types))


def missing(error: object) -> bool:
    """Whether AWS says that it is not there, rather than nothing about it."""
    return isinstance(error, NotThereError) or (
        isinstance(error, errors.DeployError)
        and error.code == "ValidationException"
        and "does not exist" in error.message
    )


def subscribed(aws: Any, model: catalog.Model) -> bool:
    """Raises DeployError or AuthError where it cannot be found out."""
    market = Marketplace(aws)
    return market.agreement(model, market.product_id(model)) is not None


def decisions(
    control: ControlPlane, who: Caller, asked: Iterable[Permission], known: Mapping[str, tuple[str, ...]]
) -> list[Decision]:
    """What IAM's simulator says of each. Raises AuthError where it may not be asked, DeployError where it cannot."""
    wanted = [*asked]
    found = _simulated(control, who, wanted, known)
    # What depends on the region is asked again from there.
    for region in dict.fromkeys(each.region for each in found if "aws:RequestedRegion" in each.missing and each.region):
        some = [each for each in wanted if each.region == region]
        again = {(each.action, each.resource): each for each in _simulated(control, who, some, known, region)}
        found = [again.get((each.action, each.resource), each) if each.region == region else each for each in found]
    return found


def _simulated(
    control: ControlPlane,
    who: Caller,
    wanted: Sequence[Permission],
    known: Mapping[str, tuple[str, ...]],
    region: str | None = None,
) -> list[Decision]:
    source = iam.principal(who.arn)
    if who.arn.endswith(":root"):  # no policy of the account's limits it
        return [iam.decided(each, {(each.action.lower(), each.resource): ("allowed", ())}) for each in wanted]
    if source is None:
        raise errors.DeployError(f"IAM knows no policies of {who.arn}", cure=preflight.AWS_SAYS)
    if ":assumed-role/" in who.arn:
        # The ARN of a session leaves the role's path out, and the roles of single sign-on have one.
        with contextlib.suppress(errors.AuthError):
            source = str(_looked_up(control, source.rpartition("/")[2])["Arn"])
    found: list[Decision] = []
    for passed_to in dict.fromkeys(each.passed_to for each in wanted):
        some = [each for each in wanted if each.passed_to == passed_to]
        said: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
        with ThreadPoolExecutor(_THREADS) as pool:
            for words in pool.map(partial(_answer, control, source), iam.questions(some, known, region)):
                said |= words
        found += [iam.decided(each, said) for each in some]
    return found


def _answer(
    control: ControlPlane, source: str, question: Question
) -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
    pages = control.pages(
        "iam",
        "simulate_principal_policy",
        PolicySourceArn=source,
        ActionNames=[*question.actions],
        ResourceArns=[*question.resources],
        ContextEntries=[*question.context],
    )
    found: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {}
    for each in (each for page in pages for each in page["EvaluationResults"]):
        found |= _words(each)
    return found


def _words(result: Mapping[str, Any]) -> dict[tuple[str, str], tuple[str, tuple[str, ...]]]:
    """By action and resource, IAM's word and the keys that it missed: of each resource, where it says so."""
    action = result["EvalActionName"].lower()
    missed = tuple(result.get("MissingContextValues", ()))
    # An organisation's refusal stands in the whole's word, whatever is said of each resource.
    forbidden = result.get("OrganizationsDecisionDetail", {}).get("AllowedByOrganizations") is False
    found = {}
    if name := result.get("EvalResourceName"):
        found[action, name] = (result["EvalDecision"], missed)
    for each in result.get("ResourceSpecificResults", ()):
        word = result["EvalDecision"] if forbidden else each["EvalResourceDecision"]
        keys = tuple(each.get("MissingContextValues", ())) or (missed if word != "allowed" else ())
        found[action, each["EvalResourceName"]] = (word, keys)
    return found


def rooms(
    control: ControlPlane,
    known: catalog.Catalog,
    needs: Iterable[Need],
    counted: Mapping[str, Use] | errors.JinaSMError | None = None,
) -> dict[str, Room]:
    """The room that there is for each need, by type; where it is too little, with the increase that is open.

    ``counted``: what is in use, if that is known.
    """
    wanted = [*needs]
    if not wanted:
        return {}
    quotas, region = Quotas(control, known.quotas.codes), control.region
    used = attempt(lambda: uses(control)) if counted is None else counted
    found = attempt(lambda: quotas.rooms((each.instance_type for each in wanted), used))
    if isinstance(found, errors.JinaSMError):
        return {each.instance_type: Room(quota=found, use=found) for each in wanted}
    short = {each.instance_type for each in wanted if preflight.quota(region, each, found[each.instance_type]).cure}
    return {kind: quotas.with_pending(room) if kind in short else room for kind, room in found.items()}


def of_plan(
    control: ControlPlane,
    desired: Desired,
    state: State,
    steps: Iterable[Step],
    needs: Iterable[Need],
    room: Mapping[str, Room],
) -> tuple[Check, ...]:
    """What the steps of one region depend on there; nothing where there are none."""
    made = {step.operation for step in steps if isinstance(step, Call)}
    checks: list[Check] = []
    if "create_model" in made:
        types = (desired.instance_type, *desired.fallbacks)
        found = attempt(lambda: package(control, desired.package_arn))
        checks.append(preflight.package(control.region, desired.model, found, types, missing=missing(found)))
    if "create_endpoint_config" in made:
        checks += preflight.storage(desired)
    if made:
        checks.append(preflight.name(desired, state))
    checks += [preflight.quota(control.region, each, room[each.instance_type]) for each in needs]
    return tuple(checks)


def of_account(
    control: ControlPlane, who: Caller, role_arn: str, steps: Mapping[str, Sequence[Step]], *, passed: str = ""
) -> tuple[Check, ...]:
    """What the steps of all regions depend on in the account: the role, if one is given, and what the caller may do.

    ``passed``: the role that is passed to SageMaker, also where it is yet to be made.
    """
    wanted = [
        permission
        for region, some in steps.items()
        for permission in iam.wanted(some, region=region, partition=who.partition, account=who.account)
    ]
    if not wanted:
        return ()
    known = iam.circumstances(step for some in steps.values() for step in some)
    found = attempt(lambda: decisions(control, who, dict.fromkeys(wanted), known))
    checks = [*preflight.permissions(found, who.arn)]
    made = {step.operation for some in steps.values() for step in some if isinstance(step, Call)}
    if "create_model" in made:
        if (passed or role_arn) and not isinstance(found, errors.JinaSMError):
            checks.insert(0, preflight.passing(found, passed or role_arn))
        if role_arn:
            trusted = attempt(lambda: role(control, role_arn))
            checks.insert(0, preflight.role(trusted, who.account, missing=missing(trusted)))
    return tuple(checks)
