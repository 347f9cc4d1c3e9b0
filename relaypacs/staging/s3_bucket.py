"""The bucket itself: is it there and where it may be (`check`, at start), and making it fit (`init`, by a person).

`init` makes the bucket if it is absent and sets versioning, default encryption, the public access block and the
lifecycle of medical records; rules that others made stay. What the service does not accept is told, not hidden.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from relaypacs.config.secrets import StorageKeys
from relaypacs.config.stores import Staging as Options
from relaypacs.errors import StagingDown, StagingError
from relaypacs.staging.s3_client import Storage, code_of, make_client

GLACIER_DAYS, DEEP_ARCHIVE_DAYS, LEFTOVER_DAYS = 90, 365, 7
_MINE = "relaypacs-"


def check(client: Any, options: Options) -> None:
    """Return if the bucket can be listed and lies in an allowed region. ClientError, StagingDown."""
    # Not HeadBucket: its refusals have no body, so no code that says why.
    client.list_objects_v2(Bucket=options.bucket, MaxKeys=1, Prefix=options.prefix)
    if options.allowed_regions:
        region = region_of(client, options.bucket)
        if region not in options.allowed_regions:
            raise StagingDown(wrong_region(options, region))


def wrong_region(options: Options, region: str) -> str:
    """The refusal: both regions are named."""
    where = f"region {region}" if region else "a region that the service does not tell"
    return (
        f"object storage: bucket {options.bucket} lies in {where}, and [staging] allowed_regions are "
        f"{', '.join(options.allowed_regions)}: nothing is stored there"
    )


def region_of(client: Any, bucket: str) -> str:
    """The region of a bucket, as the service tells it; "" if it doesn't. ClientError if there is no such bucket."""
    answer = client.head_bucket(Bucket=bucket)
    told = answer.get("BucketRegion") or answer["ResponseMetadata"]["HTTPHeaders"].get("x-amz-bucket-region", "")
    if told:
        return str(told)
    try:
        location = client.get_bucket_location(Bucket=bucket).get("LocationConstraint")
    except ClientError:
        return ""
    # The API's own words for its two oldest regions.
    return {None: "us-east-1", "": "us-east-1", "EU": "eu-west-1"}.get(location, str(location))


def init(storage: Storage) -> Iterator[tuple[str, str]]:
    """Make the bucket fit, step by step: (what, "" or why the service did not accept it).

    StagingError where nothing can be done at all.
    """
    options = storage.staging
    made = storage.call("create", lambda client: _make(client, options))
    yield ("bucket made" if made else "bucket is there"), ""
    storage.call("check", lambda client: check(client, options))
    bucket = options.bucket
    steps: list[tuple[str, Callable[[Any], object]]] = [
        (
            "versioning",
            lambda client: client.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"}),
        ),
        ("default encryption", lambda client: _encrypt(client, options)),
        (
            "public access block",
            lambda client: client.put_public_access_block(
                Bucket=bucket,
                PublicAccessBlockConfiguration={
                    "BlockPublicAcls": True,
                    "IgnorePublicAcls": True,
                    "BlockPublicPolicy": True,
                    "RestrictPublicBuckets": True,
                },
            ),
        ),
        (
            f"lifecycle: unfinished uploads end after {LEFTOVER_DAYS} days",
            lambda client: _rule(
                client, options, "uploads", AbortIncompleteMultipartUpload={"DaysAfterInitiation": LEFTOVER_DAYS}
            ),
        ),
        (
            f"lifecycle: GLACIER_IR after {GLACIER_DAYS} days, DEEP_ARCHIVE after {DEEP_ARCHIVE_DAYS}",
            lambda client: _rule(
                client,
                options,
                "records",
                Transitions=[
                    {"Days": GLACIER_DAYS, "StorageClass": "GLACIER_IR"},
                    {"Days": DEEP_ARCHIVE_DAYS, "StorageClass": "DEEP_ARCHIVE"},
                ],
            ),
        ),
    ]
    for what, step in steps:
        try:
            storage.call("init", lambda client, step=step: _accepted(client, step))  # type: ignore[misc]
        except StagingDown:
            raise
        except StagingError as refused:
            yield what, str(refused)
        else:
            yield what, ""


def _accepted(client: Any, step: Callable[[Any], object]) -> None:
    try:
        step(client)
    except ClientError as problem:
        status = problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        code = code_of(problem)
        if status in {400, 403, 405, 409, 501}:
            raise StagingError(f"not accepted ({code or status})") from None
        raise


def _make(client: Any, options: Options) -> bool:
    """Make the bucket; False if it was there. StagingDown before it would be made in a region that is not allowed."""
    try:
        client.head_bucket(Bucket=options.bucket)
        return False
    except ClientError as problem:
        if problem.response.get("ResponseMetadata", {}).get("HTTPStatusCode") != 404:
            raise
    region = client.meta.region_name
    if options.allowed_regions and region not in options.allowed_regions:
        raise StagingDown(wrong_region(options, region))
    where = {} if region == "us-east-1" else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    client.create_bucket(Bucket=options.bucket, **where)
    return True


def _encrypt(client: Any, options: Options) -> None:
    kms = options.encryption == "sse-kms"
    default = {"SSEAlgorithm": "aws:kms" if kms else "AES256"}
    if options.kms_key_id:
        default["KMSMasterKeyID"] = options.kms_key_id
    # A key of the bucket: else each object costs a request to the key service, which has a limit and a price.
    rule = {"ApplyServerSideEncryptionByDefault": default} | ({"BucketKeyEnabled": True} if kms else {})
    client.put_bucket_encryption(Bucket=options.bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})


def _rule(client: Any, options: Options, name: str, **does: object) -> None:
    """Add or replace our rule of that name; all others stay."""
    try:
        rules = client.get_bucket_lifecycle_configuration(Bucket=options.bucket).get("Rules", [])
    except ClientError as problem:
        if code_of(problem) != "NoSuchLifecycleConfiguration":
            raise
        rules = []
    prefix = f"{options.prefix}/" if options.prefix else ""
    mine = {"ID": _MINE + name, "Status": "Enabled", "Filter": {"Prefix": prefix}, **does}
    client.put_bucket_lifecycle_configuration(
        Bucket=options.bucket,
        LifecycleConfiguration={"Rules": [*(rule for rule in rules if rule.get("ID") != mine["ID"]), mine]},
    )


def misplaced(options: Options, keys: StorageKeys | None, *, timeout_seconds: float) -> str:
    """Why nothing may be stored in this bucket, or "" (also while that can't be known)."""
    try:
        region = region_of(make_client(options, keys, attempts=1, timeout_seconds=timeout_seconds), options.bucket)
    except (BotoCoreError, ClientError):
        return ""
    return "" if region in options.allowed_regions else wrong_region(options, region)
