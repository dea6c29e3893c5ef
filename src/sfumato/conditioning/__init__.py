"""Conditions: what a person asks for, turned into the tensors a network understands.

A condition is a mapping, values by name: ``{"text": "a red heart", "class": "heart"}``. Each name has a conditioner,
which turns a list of values, or ``None`` for "not asked for", into a dict with some of ``vector`` (B, D), ``context``
(B, L, D), ``context_mask`` (B, L) and ``planes`` (B, P, *sides). ``None`` is the null value of classifier-free
guidance (Ho & Salimans 2022); training drops each condition to it at random.
"""
