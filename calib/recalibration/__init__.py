"""Recalibration after training: small methods, each fitted on logits and called on logits."""
