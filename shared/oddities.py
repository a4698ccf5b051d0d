"""What a provider may send that its protocol does not have, and that costs no answer: each is counted."""

from enum import StrEnum


class Oddity(StrEnum):
    """A kind of oddity: a label of a metric and a word in the log."""

    UNKNOWN_END = "unknown_end"
    """A word for why the model stopped that is in no table."""
    NO_REASON = "no_reason"
    """The answer ended, and nobody said why."""
    NO_MARK = "no_mark"
    """The answer ended with its reason and a clean end of the response, but without the terminal mark."""
    UNKNOWN_PART = "unknown_part"
    """A part of a message that is neither text nor thinking; it is passed over."""
    NO_OBJECT = "no_object"
    """An event whose data is empty, null or otherwise no object; it says nothing."""
    WRONG_TYPE = "wrong_type"
    """A field of a wrong type that neither text nor end depends on; it is passed over."""
    OTHER_CHOICE = "other_choice"
    """A second choice in one event, although one was asked for; it is passed over."""
    USAGE_CONFLICT = "usage_conflict"
    """Figures of usage that contradict each other."""
    REFUSED_FIELD = "refused_field"
    """A field of the request that the provider refused; the request was sent again in another form."""
