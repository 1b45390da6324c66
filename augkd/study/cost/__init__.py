"""What networks, optimiser steps and budgets cost: counted, and timed on this device.

``passes`` counts, ``steps`` times methods beside each other (Table 11, the page of methods),
``plan`` says what a budget takes before it is run. Nothing here trains what is scored, and nothing
else depends on what is found here.
"""
