"""The one exception for mistakes that a user can make and mend."""


class InputError(ValueError):
    """Wrong input, said in one sentence: the file or field, the value found, and what would be right.

    The command line prints the sentence and exits with code 2; everything else that is raised is a failure of ours
    or of the machine and exits with code 1.
    """
