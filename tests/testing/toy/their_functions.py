"""What a user of the toy framework has written: loading needs trust in it."""


def squared(number: float) -> float:
    return number * number
