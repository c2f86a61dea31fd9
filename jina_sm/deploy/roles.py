"""
The role that endpoints run as, made on request: whom it trusts, what it may do, and the calls that make and remove it.
As values and as calls; touches nothing.

AWS's minimum for a model in hosting: metrics, logs, and pulling the image. What a VPC takes is a statement of its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from jina_sm.deploy.steps import OWNER, Call, tag_list

ROLE = "jina-sm-execution"
VERSION = "2012-10-17"  # of the policy language
SERVICE = "sagemaker.amazonaws.com"
# On which network interfaces a VPC's endpoints stand is AWS's to choose, so this cannot be narrowed by name or tag.
_VPC = {
    "Sid": "StandInVpc",
    "Effect": "Allow",
    "Action": [
        "ec2:CreateNetworkInterface",
        "ec2:CreateNetworkInterfacePermission",
        "ec2:DeleteNetworkInterface",
        "ec2:DeleteNetworkInterfacePermission",
        "ec2:DescribeDhcpOptions",
        "ec2:DescribeNetworkInterfaces",
        "ec2:DescribeSecurityGroups",
        "ec2:DescribeSubnets",
        "ec2:DescribeVpcs",
    ],
    "Resource": "*",
}


def arn(account: str) -> str:
    return f"arn:aws:iam::{account}:role/{ROLE}"


def trust() -> dict[str, Any]:
    """Whom the role trusts.

    Without a condition on the account: whether SageMaker says it for a Marketplace package is not written down.
    """
    statement = {"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": "sts:AssumeRole"}
    return {"Version": VERSION, "Statement": [statement]}


def permissions(account: str = "*", *, vpc: bool = False) -> dict[str, Any]:
    """What the role may do.

    ``ecr``: whether Marketplace images are pulled in the role's name is not written down; AWS's own minimum has it.
    """
    logs = f"arn:aws:logs:*:{account}:log-group:/aws/sagemaker/*"
    statements = [
        {
            "Sid": "Measure",
            "Effect": "Allow",
            "Action": "cloudwatch:PutMetricData",
            "Resource": "*",
        },
        {
            "Sid": "Log",
            "Effect": "Allow",
            "Action": ["logs:CreateLogGroup", "logs:CreateLogStream", "logs:DescribeLogStreams", "logs:PutLogEvents"],
            "Resource": logs,
        },
        {"Sid": "SignInForImages", "Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
        {
            "Sid": "PullImages",
            "Effect": "Allow",
            "Action": ["ecr:BatchCheckLayerAvailability", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"],
            "Resource": "arn:aws:ecr:*:*:repository/*",  # the seller's
        },
    ]
    return {"Version": VERSION, "Statement": [*statements, _VPC] if vpc else statements}


def making(account: str, *, there: bool, policy: Mapping[str, Any] | None, vpc: bool) -> tuple[Call, ...]:
    """The calls that make the role, as far as it is not there. One that may stand in a VPC already keeps that."""
    vpc = vpc or _VPC in (policy or {}).get("Statement", [])
    may = permissions(account, vpc=vpc)
    calls = []
    if not there:
        params = {
            "RoleName": ROLE,
            "AssumeRolePolicyDocument": _text(trust()),
            "Description": "What endpoints that jina-sm made run as",
            "Tags": tag_list({OWNER[0]: OWNER[1]}),
        }
        calls.append(Call("create_role", params, "iam"))
    if policy not in (may, permissions(vpc=vpc)):  # one who gave it to their account wrote no number
        params = {"RoleName": ROLE, "PolicyName": ROLE, "PolicyDocument": _text(may)}
        calls.append(Call("put_role_policy", params, "iam"))
    return tuple(calls)


def removal() -> tuple[Call, ...]:
    return (
        Call("delete_role_policy", {"RoleName": ROLE, "PolicyName": ROLE}, "iam"),
        Call("delete_role", {"RoleName": ROLE}, "iam"),
    )


def _text(policy: Mapping[str, Any]) -> str:
    return orjson.dumps(policy).decode()
