"""Learning thermodynamics from particles: IB-VONNs, re-derived, re-trained and checked."""

__version__ = "0.1.0"
