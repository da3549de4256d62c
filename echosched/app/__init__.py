"""The composition root: the only room that knows all others and plugs them together.

``daemon`` says what launcher and supervisor need to know (light: ``start`` and ``status`` import it),
``worker`` is the process that schedules, ``library`` the scheduler inside somebody else's program.
"""
