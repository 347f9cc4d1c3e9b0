"""The audit trail at work: a thread of the relay process that tells, and one that sends to the collector."""
