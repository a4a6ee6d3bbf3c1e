"""What every program that runs a stage of a job needs: its places and last words, reports, rows, scores and the gate.

A small leaf under the trainer and the delegate, so that a job ends, reports and is judged alike wherever it is trained. Knows
neither a training library nor a provider.
"""
