"""The proving wing: TPM transports, measurement, enrolment, data server, sandbox, the agent."""
