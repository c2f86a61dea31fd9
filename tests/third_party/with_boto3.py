"""boto3 as its documentation has it: subscribe, deploy, wait, ask, page through what is there, take it down."""

import json

import boto3
from botocore.exceptions import ClientError
from checks import BEES, QUESTION, STEEL, check, cosine, length

PACKAGE = "arn:aws:sagemaker:us-east-1:865070037744:model-package/jina-embeddings-v3-380c5162a0bb3239903a3ca66ce3cb80"
SOON = {"Delay": 1, "MaxAttempts": 60}

sagemaker = boto3.client("sagemaker")
runtime = boto3.client("sagemaker-runtime")
discovery = boto3.client("marketplace-discovery")
agreements = boto3.client("marketplace-agreement")

# The role and the account
role = boto3.client("iam").get_role(RoleName="jina-sm-execution")["Role"]["Arn"]
account = boto3.client("sts").get_caller_identity()["Account"]
check("STS and IAM name one account", role == f"arn:aws:iam::{account}:role/jina-sm-execution")

# The subscription
model = {
    "ModelName": "v3",
    "ExecutionRoleArn": role,
    "PrimaryContainer": {"ModelPackageName": PACKAGE},
    "EnableNetworkIsolation": True,
}
try:
    sagemaker.create_model(**model)
    check("a model is refused before the subscription", False)
except sagemaker.exceptions.ClientError as error:
    check("a model is refused before the subscription", "not subscribed" in error.response["Error"]["Message"])

found = discovery.search_listings(searchText="jina-embeddings-v3")["listingSummaries"]
listing = discovery.get_listing(listingId=found[0]["listingId"])
offer = discovery.get_offer(offerId=listing["associatedEntities"][0]["offer"]["offerId"])
terms = discovery.get_offer_terms(offerId=offer["offerId"])["offerTerms"]
check("the offer has legal, support and price terms", len(terms) == 3)
request = agreements.create_agreement_request(
    intent="NEW",
    agreementProposalIdentifier=offer["agreementProposalId"],
    requestedTerms=[{"id": next(iter(term.values()))["id"]} for term in terms],
)
agreement = agreements.accept_agreement_request(agreementRequestId=request["agreementRequestId"])["agreementId"]
status = agreements.describe_agreement(agreementId=agreement)["status"]
check("accepting the offer makes an active agreement", status == "ACTIVE")

# The endpoint
sagemaker.create_model(**model)
variant = {
    "VariantName": "AllTraffic",
    "ModelName": "v3",
    "InstanceType": "ml.g5.xlarge",
    "InitialInstanceCount": 1,
}
for name in ("v3", "v3-b", "v3-c"):
    sagemaker.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
sagemaker.create_endpoint(EndpointName="v3", EndpointConfigName="v3", Tags=[{"Key": "team", "Value": "search"}])
sagemaker.get_waiter("endpoint_in_service").wait(EndpointName="v3", WaiterConfig=SOON)
endpoint = sagemaker.describe_endpoint(EndpointName="v3")
check("the waiter endpoint_in_service ends in service", endpoint["EndpointStatus"] == "InService")
tags = sagemaker.list_tags(ResourceArn=endpoint["EndpointArn"])["Tags"]
check("tags come back", tags == [{"Key": "team", "Value": "search"}])
pages = list(sagemaker.get_paginator("list_endpoint_configs").paginate(PaginationConfig={"PageSize": 2}))
check("a paginator asks for page after page", [len(page["EndpointConfigs"]) for page in pages] == [2, 1])
configs = [config["EndpointConfigName"] for page in pages for config in page["EndpointConfigs"]]
check("and sees each once", sorted(configs) == ["v3", "v3-b", "v3-c"])


# The model
def embed(texts: list[str], **parameters: object) -> list[list[float]]:
    answer = runtime.invoke_endpoint(
        EndpointName="v3",
        ContentType="application/json",
        Body=json.dumps({"data": [{"text": text} for text in texts], "parameters": parameters}),
    )
    return [row["embedding"] for row in json.loads(answer["Body"].read())["data"]]


bees, steel = embed([BEES, STEEL], task="retrieval.passage")
(query,) = embed([QUESTION], task="retrieval.query")
check("1024 dimensions, of length 1", len(bees) == 1024 and abs(length(bees) - 1) < 1e-3)
check("in the order asked", cosine(embed([STEEL, BEES], task="retrieval.passage")[1], bees) > 0.999)
check("the same meaning is closer", cosine(query, bees) > cosine(query, steel) + 0.1)
check("dimensions as asked for", len(embed([BEES], dimensions=256)[0]) == 256)

# What goes wrong
try:
    runtime.invoke_endpoint(EndpointName="v3", ContentType="application/json", Body=b"{}")
    check("the model's refusal is a ModelError", False)
except runtime.exceptions.ModelError as error:
    check("the model's refusal is a ModelError", error.response["OriginalStatusCode"] == 422)
try:
    runtime.invoke_endpoint(EndpointName="none", Body=b"{}")
    check("no endpoint, no answer", False)
except ClientError as error:
    check("no endpoint, no answer", "not found" in error.response["Error"]["Message"])

# What SageMaker is used with
s3 = boto3.client("s3")
s3.create_bucket(Bucket="corpus")
s3.put_object(Bucket="corpus", Key="bees.txt", Body=BEES.encode())
check("S3 keeps a file", s3.get_object(Bucket="corpus", Key="bees.txt")["Body"].read().decode() == BEES)
scaled = {
    "ServiceNamespace": "sagemaker",
    "ResourceId": "endpoint/v3/variant/AllTraffic",
    "ScalableDimension": "sagemaker:variant:DesiredInstanceCount",
}
scaling = boto3.client("application-autoscaling")
scaling.register_scalable_target(**scaled, MinCapacity=1, MaxCapacity=2)
targets = scaling.describe_scalable_targets(ServiceNamespace="sagemaker")["ScalableTargets"]
check("a variant can be registered for scaling", [target["MaxCapacity"] for target in targets] == [2])
scaling.deregister_scalable_target(**scaled)

# Down again
sagemaker.delete_endpoint(EndpointName="v3")
sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="v3", WaiterConfig=SOON)
for name in configs:
    sagemaker.delete_endpoint_config(EndpointConfigName=name)
sagemaker.delete_model(ModelName="v3")
check("the waiter endpoint_deleted ends, and nothing is left", not sagemaker.list_endpoints()["Endpoints"])
agreements.cancel_agreement(agreementId=agreement)
status = agreements.describe_agreement(agreementId=agreement)["status"]
check("the subscription ends", status == "CANCELLED")
