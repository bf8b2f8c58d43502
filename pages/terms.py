"""Words of the pages that a reader may not know, in the order in which a page lists them."""

from __future__ import annotations

PERFORMANCE = (
    ("Responder", "best RECIST response complete or partial; otherwise free of progression longer than the cut-off"),
    ("Risk", "predicted log hazard: higher means earlier progression or death; differences count, not the zero"),
    ("PFS, OS", "progression-free survival and overall survival"),
    ("AUC", "chance that a responder gets a higher probability than a non-responder; 0.5 is guessing, 1 is perfect"),
    ("Average precision", "precision averaged over all thresholds; guessing gives the share of responders"),
    ("Brier score", "mean squared error of the probability; 0 is perfect, lower is better"),
    (
        "Calibration in the large, slope",
        "whether probabilities are too low or too high overall (0 is best), and too extreme (slope below 1) or too "
        "timid (above 1)",
    ),
    ("Sensitivity, specificity", "shares of the responders and of the non-responders who are predicted as such"),
    (
        "C-index, Uno’s C",
        "share of pairs of patients in which the one at higher risk has the event first; 0.5 is guessing",
    ),
    ("Hazard ratio", "rate of events at high risk divided by that at low risk"),
    ("Number needed to treat", "predicted responders to treat for one more response than in predicted non-responders"),
    ("Threshold", "probability from which a response is predicted, by Youden’s index: sensitivity + specificity − 1"),
    ("Interval", "range that holds the true value in the stated share of repeated studies"),
)
"""Of the report."""

IMPORTANCE = (
    ("Bag", "a large square of a slide, the unit that is weighed against others of the patient"),
    ("Word", "a small square of a bag, the smallest part that the model reads"),
    ("Weight", "how much the model looked at a part; all weights of a kind sum to 100 %"),
    ("Even share", "the weight of a part if the model looked at all alike; 2 × means twice as much"),
    (
        "Effect",
        "by how much what is predicted, risk or chance of response, is higher with the part than without it; of bags "
        "and lesions a mean over all orders in which they may be added (Shapley value), of words to first order",
    ),
    ("Risk, log hazard", "higher means earlier progression or death; +0.7 doubles the rate of events, −0.7 halves it"),
    ("Chance of response, log odds", "logarithm of p / (1 − p); +0.7 doubles the odds, −0.7 halves them"),
    ("Omics feature", "a number computed from the pixels of a region, such as its texture"),
    ("Grad-CAM", "which places of a picture set the prediction apart from that of an average lesion; coarse"),
)
"""Of the pages of `mumo explain`."""
