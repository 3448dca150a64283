# Nested functions, dictionaries, JSON and sorting until it is killed.
import json


def outer(number):
    def middle(depth):
        def inner(value):
            return value if value < 2 else inner(value - 1) + inner(value - 2)

        return inner(10) if depth == 0 else middle(depth - 1)

    return middle(number)


while True:
    numbers = {str(i): outer(i % 20) for i in range(100)}
    json.loads(json.dumps(numbers))
    sorted(numbers, key=lambda name: name[::-1])
