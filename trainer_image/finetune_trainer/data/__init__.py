"""From files of JSON lines to prepared splits: read, check, clean, cut. Used by :mod:`finetune_trainer.prepare`.

Memory holds a digest per row, never the rows.
"""
