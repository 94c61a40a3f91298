"""The command line: parse, assemble, call.

A verb is a file here that defines `main(argv: list[str]) -> int`; the first line of its docstring is its line in the help.
"""
