"""The mathematics of labels: which are wrong, who agrees with whom, what a sample says of all of them.

Plain numpy over arrays, without Ray, recipes or files; the operators of curate and evaluate stand on it.
"""
