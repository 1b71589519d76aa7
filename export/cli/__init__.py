"""The command line: ``main``, and a module a command: its summary, an example, its arguments, what it runs.

Each has ``SUMMARY``, ``EXAMPLE``, ``add_arguments(parser)`` and ``run(options)``, and imports what does the
work inside ``run``, so that ``--help`` answers at once. ``GOES_ON`` is true of one that goes on where it was
interrupted when it is given again.
"""
