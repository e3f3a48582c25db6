"""The one exception for requests that cannot be met, and the sentence that names the nearest right thing."""

import difflib


class RequestError(ValueError):
    """What was asked for is wrong: a name, a value, a file. The message quotes what came and gives the remedy.

    The command line turns it into one line on standard error and exit status 2.
    """


def unknown(kind: str, received, known) -> RequestError:
    """The error for a name that is not in ``known``: quotes it, gives the nearest right one, then all of them."""
    known = list(known)
    nearest = difflib.get_close_matches(str(received).lower(), known, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    return RequestError(f"Unknown {kind} {received!r}.{hint} Known: {', '.join(known)}.")


class ConversionError(RuntimeError):
    """The converter could not make a file of the model. The message carries its reason and the layers concerned."""
