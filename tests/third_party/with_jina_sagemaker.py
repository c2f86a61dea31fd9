"""jina-sagemaker as its notebooks have it: create an endpoint from a package, embed, rerank, delete it."""

import boto3
from checks import BEES, QUESTION, STEEL, check, cosine, length
from jina_sagemaker import Client, Task

PACKAGES = "arn:aws:sagemaker:us-east-1:865070037744:model-package"
V3 = f"{PACKAGES}/jina-embeddings-v3-380c5162a0bb3239903a3ca66ce3cb80"
RERANKER = f"{PACKAGES}/jina-reranker-v2-base-multilin-788e60494b1930f5aebc8717c663a1e4"

# An endpoint of its own. This takes 30 s however quick the endpoint is: sagemaker sleeps before it looks. The role is
# given because sagemaker looks for one at STS's public address, whatever AWS_ENDPOINT_URL says.
client = Client(region_name="us-east-1")
client.create_endpoint(
    arn=V3,
    role="jina-sm-execution",
    endpoint_name="v3",
    instance_type="ml.g5.xlarge",
    n_instances=1,
)
print()  # sagemaker's progress bar has no end of line
sagemaker = boto3.client("sagemaker")
status = sagemaker.describe_endpoint(EndpointName="v3")["EndpointStatus"]
check("create_endpoint comes back with the endpoint in service", status == "InService")

rows = client.embed(texts=[BEES, STEEL, QUESTION], task_type=Task.TEXT_MATCHING)
bees, steel, query = (row["embedding"] for row in rows)
check("embed: 1024 dimensions, of length 1", len(bees) == 1024 and abs(length(bees) - 1) < 1e-3)
check("embed: each row says its tokens", all(row["usage"]["total_tokens"] > 0 for row in rows))
check("embed: the same meaning is closer", cosine(query, bees) > cosine(query, steel) + 0.1)
(again,) = client.embed(texts=BEES)
check("embed: one text, the same vector", cosine(again["embedding"], bees) > 0.999)
(short,) = client.embed(texts=[QUESTION], task_type=Task.RETRIEVAL_QUERY, dimensions=128)
check("embed: a task and dimensions as asked for", len(short["embedding"]) == 128)
chunks = client.embed(texts=[BEES, STEEL], task_type=Task.RETRIEVAL_PASSAGE, late_chunking=True)
check("embed: late chunking", [len(row["embedding"]) for row in chunks] == [1024, 1024])

target = client.register_scalable_target(max_capacity=2)
check("register_scalable_target", target["ResponseMetadata"]["HTTPStatusCode"] == 200)
policy = client.set_step_autoscaling(
    policy_name="more",
    policy_configuration={
        "AdjustmentType": "ChangeInCapacity",
        "StepAdjustments": [{"MetricIntervalLowerBound": 0, "ScalingAdjustment": 1}],
    },
)
client.set_metric_alarm(
    policy["PolicyARN"],
    AlarmName="busy",
    Namespace="AWS/SageMaker",
    MetricName="Invocations",
    Statistic="Sum",
    Period=60,
    EvaluationPeriods=1,
    Threshold=100,
    ComparisonOperator="GreaterThanThreshold",
)
(alarm,) = boto3.client("cloudwatch").describe_alarms(AlarmNames=["busy"])["MetricAlarms"]
check("set_step_autoscaling and set_metric_alarm", alarm["AlarmActions"] == [policy["PolicyARN"]])

# An endpoint that jina-sm deployed
reranker = Client(region_name="us-east-1")
reranker.connect_to_endpoint(endpoint_name="jina-sm-reranker-v2-base-multilingual", arn=RERANKER)
(answer,) = reranker.rerank(documents=[STEEL, BEES], query=QUESTION)
scores = [result["relevance_score"] for result in answer["results"]]
check("rerank: the relevant document first", answer["results"][0]["document"]["text"] == BEES)
check(
    "rerank: sorted, each with its place in the request", scores[0] > scores[1] and answer["results"][0]["index"] == 1
)
(answer,) = reranker.rerank(documents=[STEEL, BEES], query=QUESTION, top_n=1)
check("rerank: the best of them", len(answer["results"]) == 1)

try:
    reranker.connect_to_endpoint(endpoint_name="none", arn=RERANKER)
    check("connect_to_endpoint refuses what is not there", False)
except Exception as error:
    check("connect_to_endpoint refuses what is not there", "does not exist" in str(error))
reranker.close()

# Down again
client.delete_endpoint()
client.close()
sagemaker.get_waiter("endpoint_deleted").wait(EndpointName="v3", WaiterConfig={"Delay": 1, "MaxAttempts": 60})
configs = sagemaker.list_endpoint_configs(NameContains="v3")["EndpointConfigs"]
check("delete_endpoint deletes the endpoint and its config", not configs)
models = sagemaker.list_models(NameContains="jina-embeddings-v3")["Models"]
check("and leaves the model that sagemaker made", len(models) == 1)
