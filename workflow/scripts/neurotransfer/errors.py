"""What a person has to mend: an error that is one line long and says where, what and how."""


class InputError(ValueError):
    """A mistake in a file, a table or the configuration that a person can mend.

    Its text is one line: the file, the row or key, what is wrong there, and the fix.  Programs that
    meet one print that line and stop, without a traceback.

    Parameters
    ----------
    file : the file (or folder) that holds the mistake; may be empty where there is none
    where : the row, column or key within it; may be empty
    what : what is wrong
    fix : what to do about it
    """

    def __init__(self, file: object, where: str, what: str, fix: str) -> None:
        place = ": ".join(part for part in (str(file), where) if part)
        line = f"{place}: {what}" if place else what
        super().__init__(" ".join(f"{line}; {fix}".split()))
        self.file, self.where, self.what, self.fix = str(file), where, what, fix


class ImageError(ValueError):
    """One image that cannot be used, with a reason from a fixed list; the others go on.

    Parameters
    ----------
    reason : a short code for tables, such as ``truncated`` (the list is in preprocessing.py)
    detail : one line for a person
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, " ".join(detail.split())
