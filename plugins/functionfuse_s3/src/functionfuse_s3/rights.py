"""The right that each request needs, by the names in policies."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from .options import S3Options

__all__ = ["Request", "denied"]

_PUT, _GET, _LIST = "s3:PutObject", "s3:GetObject", "s3:ListBucket"
_RIGHTS = {
    "abort_multipart_upload": ("s3:AbortMultipartUpload",),
    "complete_multipart_upload": (_PUT,),
    "copy_object": (_GET, _PUT),
    "create_multipart_upload": (_PUT,),
    "delete_object": ("s3:DeleteObject",),
    "delete_objects": ("s3:DeleteObject",),
    "get_object": (_GET,),
    "head_object": (_GET,),
    "list_multipart_uploads": ("s3:ListBucketMultipartUploads",),
    "list_objects_v2": (_LIST,),
    "list_parts": ("s3:ListMultipartUploadParts",),
    "put_object": (_PUT,),
    "upload_part": (_PUT,),
    "upload_part_copy": (_GET, _PUT),
}
# Of options for uploads, by boto3's names.
_RIGHTS_OF_OPTIONS = {
    "ACL": "s3:PutObjectAcl",
    "GrantFullControl": "s3:PutObjectAcl",
    "GrantRead": "s3:PutObjectAcl",
    "GrantReadACP": "s3:PutObjectAcl",
    "GrantWriteACP": "s3:PutObjectAcl",
    "Tagging": "s3:PutObjectTagging",
}


class Request(NamedTuple):
    """A request that failed.

    Attributes:
        doing: the operation with bucket, key and endpoint, for messages.
        operation: boto3's name of the operation.
        options: of the storage.
        writing: the options for new blobs, as arguments of boto3.
        checksums: the option of this name, or boto3's setting.
    """

    doing: str
    operation: str
    options: S3Options
    writing: Mapping[str, Any]
    checksums: str | None = None


def denied(request: Request) -> str:
    """Return which right a denied request needs, and who can give it."""
    rights = list(_RIGHTS[request.operation])
    gets, puts = _GET in rights, _PUT in rights
    if puts:
        given = request.writing.keys() & _RIGHTS_OF_OPTIONS.keys()
        rights += sorted({_RIGHTS_OF_OPTIONS[name] for name in given})
    encrypted = str(request.writing.get("ServerSideEncryption", "")).startswith("aws:kms")
    if encrypted and (gets or puts):
        rights += ["kms:GenerateDataKey"] * puts + ["kms:Decrypt"]
    needed = f"the right{'s' * (len(rights) > 1)} {', '.join(rights)}"
    if request.options.anonymous:
        cure = (
            f"it needs {needed}, which the bucket doesn't give to everybody. Ask its owner, or give"
            " credentials instead of the option 'anonymous'"
        )
    else:
        cure = (
            f"the credentials don't allow it. It needs {needed}: add what is missing to their"
            " policy; the documentation of the storage S3 has policies that suffice"
        )
    if gets and puts:
        cure += ". To copy an object with tags, s3:GetObjectTagging and s3:PutObjectTagging, too"
    if gets:
        cure += f". Without {_LIST}, a server says the same of an object that doesn't exist"
    return cure
