"""`mumo explain`: pictures and pages of what a model's predictions rest on.

The numbers come from `fusion` (weights, effects, integrated gradients, checks), which needs a store and a run alone;
Grad-CAM goes on through the backbone of `pipeline.networks`.
"""
