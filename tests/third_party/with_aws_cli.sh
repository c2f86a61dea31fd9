# The AWS CLI, as a shell user has it, on an endpoint that jina-sm deployed.
set -eu
aws() { python -m awscli "$@"; } # bin/aws names its Python in its first line, which no path with a space survives

check() { # RULE GOT WANTED
    if [ "$2" = "$3" ]; then echo "ok   $1"; else echo "FAIL $1: $2, not $3"; exit 1; fi
}

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
endpoint=jina-sm-embeddings-v3

account=$(aws sts get-caller-identity --query Account --output text)
check "sts names the account" "$account" 123456789012
check "iam knows the execution role" \
    "$(aws iam get-role --role-name jina-sm-execution --query Role.Arn --output text)" \
    "arn:aws:iam::$account:role/jina-sm-execution"
check "marketplace-agreement finds the subscription" \
    "$(aws marketplace-agreement search-agreements --catalog AWSMarketplace \
        --filters name=PartyType,values=Acceptor name=AgreementType,values=PurchaseAgreement \
        --query 'agreementViewSummaries[].status' --output text)" \
    ACTIVE

aws sagemaker wait endpoint-in-service --endpoint-name $endpoint
check "list-endpoints finds the endpoint" \
    "$(aws sagemaker list-endpoints --status-equals InService --query 'Endpoints[].EndpointName' --output text)" \
    $endpoint
check "describe-endpoint says it is in service" \
    "$(aws sagemaker describe-endpoint --endpoint-name $endpoint --query EndpointStatus --output text)" \
    InService

# The body is text as it is in version 1 of the CLI; version 2 wants --cli-binary-format raw-in-base64-out.
check "invoke-endpoint says which variant answered" \
    "$(aws sagemaker-runtime invoke-endpoint --endpoint-name $endpoint --content-type application/json \
        --body '{"data": [{"text": "Was machen Bienen?"}, {"text": "Bees make honey."}, {"text": "Steel rusts in the rain."}]}' \
        --query InvokedProductionVariant --output text "$dir/answer.json")" \
    AllTraffic
check "a vector of 1024 for each text" \
    "$(python -c 'import json, sys; print([len(row["embedding"]) for row in json.load(open(sys.argv[1]))["data"]])' \
        "$dir/answer.json")" \
    "[1024, 1024, 1024]"
check "the same meaning is closer" \
    "$(python -c 'import json, sys
query, bees, steel = (row["embedding"] for row in json.load(open(sys.argv[1]))["data"])
dot = lambda a, b: sum(x * y for x, y in zip(a, b))
print(dot(query, bees) > dot(query, steel) + 0.1)' "$dir/answer.json")" \
    True
said=$(aws sagemaker-runtime invoke-endpoint --endpoint-name none --content-type application/json --body '{}' \
    "$dir/none" 2>&1) && code=0 || code=$?
check "no endpoint is an error" $code 255 # 254 in version 2
case $said in *"(ValidationError)"*"not found"*) said=ValidationError ;; esac
check "in the service's words" "$said" ValidationError

aws s3 mb s3://corpus > "$dir/said"
aws s3 cp "$dir/answer.json" s3://corpus/answers/ --quiet
check "s3 lists what was copied" "$(aws s3 ls s3://corpus/answers/ | awk '{print $4}')" answer.json
aws s3 cp s3://corpus/answers/answer.json "$dir/again.json" --quiet
check "and brings back the same" "$(cksum < "$dir/again.json")" "$(cksum < "$dir/answer.json")"
