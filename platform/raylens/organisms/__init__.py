"""Model organisms: fine-tunes whose behaviour is known, to calibrate audits and to measure them.

Nothing that judges a fine-tune may import this room: a detector that has seen a trigger proves nothing. The layers of
``tests/architecture`` see to that.
"""
