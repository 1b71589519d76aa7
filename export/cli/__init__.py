"""Command line of ``edgeslm-export``, with ``main`` and a module for each command.

Each command has ``SUMMARY``, ``EXAMPLE``, ``add_arguments(parser)`` and ``run(options)``. Heavy imports are
inside ``run``, so that ``--help`` is fast. ``RESUMES`` is true for commands that continue an interrupted run.
"""
