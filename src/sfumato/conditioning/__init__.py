"""Conditions: what a person asks for, turned into the tensors a network understands.

A conditioner maps a list of conditions (a class name, a prompt, or ``None`` for "no condition") to a dict with some
of ``vector`` (B, D), ``context`` (B, L, D) and ``context_mask`` (B, L). ``None`` is the null condition of
classifier-free guidance (Ho & Salimans 2022); training drops conditions to it at random.
"""
