// Recursion in compiled code, objects for the collector, a regular expression and sorting until it is killed.
'use strict';

function fibonacci(n) {
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

function tree(depth) {
    return depth === 0 ? { leaf: fibonacci(8) } : { left: tree(depth - 1), right: tree(depth - 1) };
}

for (;;) {
    const text = JSON.stringify(tree(10));
    text.replace(/"leaf":(\d+)/g, (all, digits) => digits);
    Array.from({ length: 10000 }, () => Math.random()).sort((a, b) => a - b);
    fibonacci(25);
}
