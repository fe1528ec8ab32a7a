"""Pushing: directions in the residual stream, branches along them, and a fair judgement."""
