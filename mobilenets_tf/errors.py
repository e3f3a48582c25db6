"""The one exception for requests that cannot be met, and the sentence that names the nearest right thing."""

import difflib


class RequestError(ValueError):
    """What was asked for is wrong: a name, a value, a file. The message quotes what came and gives the remedy.

    The command line turns it into one line on standard error and exit status 2.
    """


_MOST_LISTED = 12


def unknown(kind: str, received, known) -> RequestError:
    """The error for a name that is not in ``known``: quotes it and gives the nearest right one, then all of them; of
    many, the three nearest alone."""
    known = list(known)
    close = nearest(received, known)
    if len(known) > _MOST_LISTED:
        hint = (
            f" Did you mean {' or '.join(map(repr, close))}?"
            if close
            else f" No name of the {len(known)} is like this."
        )
        return RequestError(f"Unknown {kind} {str(received)[:200]!r}.{hint}")
    hint = f" Did you mean {close[0]!r}?" if close else ""
    listed = f" Known: {', '.join(known)}." if known else ""
    return RequestError(f"Unknown {kind} {str(received)[:200]!r}.{hint}{listed}")


def nearest(received, known) -> list[str]:
    """Return up to three of the ``known`` names, the nearest to what was received first."""
    by_small = {name.lower(): name for name in known}
    return [by_small[name] for name in difflib.get_close_matches(str(received).lower(), by_small, n=3, cutoff=0.4)]


def first_line(error: Exception) -> str:
    """Return the first line of an error's message; the name of its type if the message is empty, as LiteRT's are where
    memory is short."""
    return next(iter(str(error).splitlines()), type(error).__name__)


class ConversionError(RuntimeError):
    """The converter could not make a file of the model. The message carries its reason and the layers concerned."""
