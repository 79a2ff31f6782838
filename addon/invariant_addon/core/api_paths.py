"""The paths of OpenAI's API, and how each is guarded. A table, and nothing else.

Below the version (`/v1`). `{}` stands for one segment (an id), `**` for any number of them. From
the resources of openai-python 3.54 and the API reference; what is not here is unknown.
"""

from __future__ import annotations

CHAT = """
POST    chat/completions
"""

RESPONSES = """
POST    responses
POST    responses/compact
"""

STORED_RESPONSE = """
GET     responses/{}
POST    responses/{}/cancel
"""

COMPLETIONS = """
POST    completions
"""

TEXT_IN = """
POST    audio/voice_consents
POST    audio/voice_consents/{}
POST    audio/voices
POST    batches
POST    containers
POST    containers/{}/files
POST    content_provenance_checks
POST    conversations/{}
POST    embeddings
POST    files
POST    fine_tuning/alpha/graders/validate
POST    fine_tuning/checkpoints/{}/permissions
POST    fine_tuning/jobs
POST    moderations
POST    responses/input_tokens
POST    skills
POST    skills/{}
POST    skills/{}/versions
POST    uploads
POST    vaults
POST    vaults/{}
POST    vaults/{}/credentials
POST    vaults/{}/credentials/{}
POST    vector_stores
POST    vector_stores/{}
POST    vector_stores/{}/file_batches
POST    vector_stores/{}/files
POST    vector_stores/{}/files/{}
POST    videos/characters
"""
"""The request's texts leave this machine; what comes back holds none of the model's."""

TEXT_OUT = """
GET     agents
GET     agents/{}
GET     agents/automations
GET     agents/automations/{}
GET     agents/automations/{}/invocations
GET     agents/automations/{}/invocations/{}
GET     agents/environments
GET     agents/environments/templates
GET     agents/environments/templates/{}
GET     agents/environments/{}
GET     agents/environments/{}/files
GET     agents/sessions
GET     agents/sessions/{}
GET     agents/sessions/{}/artifacts
GET     agents/sessions/{}/artifacts/{}
GET     agents/sessions/{}/artifacts/{}/content
GET     agents/sessions/{}/events
GET     agents/sessions/{}/items
GET     agents/sessions/{}/subagents
GET     agents/sessions/{}/subagents/{}
GET     agents/sessions/{}/subagents/{}/items
GET     agents/sessions/{}/subagents/{}/turns
GET     agents/sessions/{}/subagents/{}/turns/{}
GET     agents/sessions/{}/subagents/{}/turns/{}/items
GET     agents/sessions/{}/traces
GET     agents/sessions/{}/turns
GET     agents/sessions/{}/turns/{}
GET     agents/sessions/{}/turns/{}/items
GET     assistants
GET     assistants/{}
GET     chat/completions
GET     chat/completions/{}
GET     chat/completions/{}/messages
GET     chatkit/threads
GET     chatkit/threads/{}
GET     chatkit/threads/{}/items
GET     containers/{}/files/{}/content
GET     conversations/{}
GET     conversations/{}/items
GET     conversations/{}/items/{}
GET     evals
GET     evals/{}
GET     evals/{}/runs
GET     evals/{}/runs/{}
GET     evals/{}/runs/{}/output_items
GET     evals/{}/runs/{}/output_items/{}
GET     files/{}/content
GET     responses/{}/input_items
GET     skills
GET     skills/{}
GET     skills/{}/content
GET     skills/{}/versions
GET     skills/{}/versions/{}
GET     skills/{}/versions/{}/content
GET     threads/{}
GET     threads/{}/messages
GET     threads/{}/messages/{}
GET     threads/{}/runs
GET     threads/{}/runs/{}
GET     threads/{}/runs/{}/steps
GET     threads/{}/runs/{}/steps/{}
GET     vector_stores/{}/files/{}/content
GET     videos
GET     videos/{}
"""
"""What comes back was said by the model, or will be read by it."""

TEXT = """
POST    agents
POST    agents/{}
POST    agents/automations
POST    agents/automations/{}
POST    agents/automations/{}/invocations
POST    agents/automations/{}/pause
POST    agents/automations/{}/resume
POST    agents/environments
POST    agents/environments/templates
POST    agents/environments/templates/{}
POST    agents/environments/{}/files
POST    agents/sessions
POST    agents/sessions/{}
POST    agents/sessions/{}/events
POST    assistants
POST    assistants/{}
POST    audio/transcriptions
POST    audio/translations
POST    chat/completions/{}
POST    conversations
POST    conversations/{}/items
POST    decisions
POST    evals
POST    evals/{}
POST    evals/{}/runs
POST    evals/{}/runs/{}/cancel
POST    fine_tuning/alpha/graders/run
POST    images/edits
POST    images/generations
POST    images/variations
POST    threads
POST    threads/runs
POST    threads/{}
POST    threads/{}/messages
POST    threads/{}/messages/{}
POST    threads/{}/runs
POST    threads/{}/runs/{}
POST    threads/{}/runs/{}/cancel
POST    threads/{}/runs/{}/submit_tool_outputs
POST    vector_stores/{}/search
POST    videos
POST    videos/edits
POST    videos/extensions
POST    videos/{}/remix
"""
"""Both."""

MEDIA = """
POST    audio/speech
GET     videos/{}/content
"""
"""The request is judged; sound or pictures come back, which no rule can read."""

HARMLESS = """
DELETE  agents/{}
DELETE  agents/automations/{}
DELETE  agents/environments/templates/{}
DELETE  agents/sessions/{}
DELETE  agents/sessions/{}/artifacts/{}
DELETE  assistants/{}
GET     audio/voice_consents
GET     audio/voice_consents/{}
DELETE  audio/voice_consents/{}
DELETE  audio/voices/{}
GET     batches
GET     batches/{}
POST    batches/{}/cancel
DELETE  chat/completions/{}
POST    chatkit/sessions/{}/cancel
DELETE  chatkit/threads/{}
GET     containers
GET     containers/{}
DELETE  containers/{}
GET     containers/{}/files
GET     containers/{}/files/{}
DELETE  containers/{}/files/{}
DELETE  conversations/{}
DELETE  conversations/{}/items/{}
DELETE  evals/{}
DELETE  evals/{}/runs/{}
GET     files
GET     files/{}
DELETE  files/{}
GET     fine_tuning/checkpoints/{}/permissions
DELETE  fine_tuning/checkpoints/{}/permissions/{}
GET     fine_tuning/jobs
GET     fine_tuning/jobs/{}
POST    fine_tuning/jobs/{}/cancel
GET     fine_tuning/jobs/{}/checkpoints
GET     fine_tuning/jobs/{}/events
POST    fine_tuning/jobs/{}/pause
POST    fine_tuning/jobs/{}/resume
GET     models
GET     models/{}
DELETE  models/{}
GET     organization/**
POST    organization/**
DELETE  organization/**
GET     projects/**
POST    projects/**
DELETE  projects/**
DELETE  responses/{}
GET     safety/alerts/{}
GET     safety/cases/{}
DELETE  skills/{}
DELETE  skills/{}/versions/{}
DELETE  threads/{}
DELETE  threads/{}/messages/{}
POST    uploads/{}/cancel
POST    uploads/{}/complete
GET     vaults
GET     vaults/{}
DELETE  vaults/{}
GET     vaults/{}/credentials
GET     vaults/{}/credentials/{}
DELETE  vaults/{}/credentials/{}
GET     vector_stores
GET     vector_stores/{}
DELETE  vector_stores/{}
GET     vector_stores/{}/file_batches/{}
POST    vector_stores/{}/file_batches/{}/cancel
GET     vector_stores/{}/file_batches/{}/files
GET     vector_stores/{}/files
GET     vector_stores/{}/files/{}
DELETE  vector_stores/{}/files/{}
GET     videos/characters/{}
DELETE  videos/{}
GET     webhook_endpoints
POST    webhook_endpoints
GET     webhook_endpoints/{}
POST    webhook_endpoints/{}
DELETE  webhook_endpoints/{}
POST    webhook_endpoints/{}/rotate_secret
POST    webhook_endpoints/{}/test
GET     webhook_event_types
"""
"""Lists, settings, deletes: no model reads or writes there. A body is judged all the same."""

UNKNOWN = """
POST    chatkit/sessions
GET     live/sessions/{}/content
POST    live/sessions
POST    live/sessions/{}/accept
POST    live/sessions/{}/fork
POST    live/sessions/{}/hangup
POST    live/sessions/{}/refer
POST    live/sessions/{}/reject
GET     realtime
POST    realtime/calls
POST    realtime/calls/{}/accept
POST    realtime/calls/{}/hangup
POST    realtime/calls/{}/refer
POST    realtime/calls/{}/reject
POST    realtime/client_secrets
POST    realtime/sessions
POST    realtime/transcription_sessions
POST    realtime/translations/client_secrets
POST    uploads/{}/parts
"""
"""Known, and not to be judged: what is set up there is spoken past this proxy (WebRTC, a browser
with a secret of its own), or is a piece of a file that says nothing by itself."""
