"""`mumo explain`: pictures and pages of what a model's predictions rest on.

This is the one package that knows both halves of mumo. The numbers come from `fusion` (weights, effects, integrated
gradients, checks), which needs a store and a run alone; Grad-CAM goes on through the backbone of `pipeline.networks`.
Neither half imports the other, and nothing imports this package but the command line.
"""
