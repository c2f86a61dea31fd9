"""
The execution role of a SageMaker notebook, by the ``sagemaker`` SDK (extra ``[sagemaker]``, v3) where it is installed.

The SDK reads the role from the notebook's own metadata, which boto3 cannot. It is a gigabyte and takes seconds to
import, so the rest of this package never touches it.
"""

from __future__ import annotations

import os


def execution_role() -> str | None:
    """The ARN of the role that this notebook runs as; None: leave it to ``deploy``, which finds one by convention.

    On the local stack (``AWS_ENDPOINT_URL``) always None: the SDK asks the real STS, whatever endpoint is set.
    """
    if os.environ.get("AWS_ENDPOINT_URL"):
        return None
    try:
        from sagemaker.core.helper.session_helper import get_execution_role
    except ImportError:
        return None
    try:
        return str(get_execution_role())
    except ValueError:  # whoever asks is a user, not a role
        return None
