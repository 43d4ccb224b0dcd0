"""Whether a model is read from this disk or from the Hub, and what to do where the Hub can't be reached."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen


def reading_options(model: str) -> dict[str, Any]:
    """The options of `from_pretrained` for a model.

    Without them the Hub's client asks for each file that its cache lacks six times, half a minute in all, where there
    is no connection.

    Args:
        model: a directory, a file, or a Hub id.
    """
    from huggingface_hub import is_offline_mode

    if Path(model).exists() or is_offline_mode():
        return {}
    return {} if _answers() else {"local_files_only": True}


def _answers() -> bool:
    """Whether the Hub gives any answer; one that is refused or not trusted is for its client to explain."""
    from huggingface_hub import constants

    request = Request(constants.ENDPOINT, method="HEAD")
    try:
        with urlopen(request, timeout=constants.HF_HUB_ETAG_TIMEOUT):
            return True
    except HTTPError:
        return True
    except URLError as error:
        return isinstance(error.reason, ssl.SSLError)
    except OSError:  # A connection that was made, and then broke off or timed out.
        return False
