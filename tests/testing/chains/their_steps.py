"""What a user of chains has written: loading needs trust in it."""


def doubled(number: float) -> float:
    return 2 * number


def negated(number: float) -> float:
    return -number
