"""The rows of `api_rows.py` that are about TLS, and what a row is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Row:
    """One row: names of gnet, apart by spaces, and the tests of what the row decides."""

    names: str
    tests: tuple[str, ...]


def row(names: str, *tests: str) -> Row:
    return Row(names, tests)


# Rows of Nim's `net`, by the names they have there.

NIM_TLS_ROWS: Final = {
    "Certificate": row(
        "Certificate",
        "tls.test_certificates::test_the_chain_of_the_peer_is_the_verified_one_leaf_first",
        "test_exports::test_a_certificate_is_bytes",
    ),
    "SslError": row(
        "SslError",
        "test_errors::test_an_error_keeps_message_and_attributes_in_a_copy",
        "test_errors::test_errors_of_the_connection_are_os_errors_without_a_number",
        "tls.test_trust::test_e2_what_is_out_of_its_dates_is_refused",
        "tls_transport.test_engines::test_an_error_of_another_connection_is_not_taken_for_ones_own",
        "tls_transport.test_transport::test_an_error_stays_whatever_is_called",
        "tls_transport.test_transport::test_the_cause_of_an_error_is_another_error",
    ),
    "SslCVerifyMode": row(
        "SslCVerifyMode",
        "test_options::test_the_enums_of_tls_have_the_order_of_nim",
        "tls.test_contexts::test_without_verification_anybody_can_be_the_server",
        "tls.test_contexts::test_a_mode_of_another_type_is_a_type_error",
        "tls.test_certificates::test_the_variables_say_whom_to_trust_in_their_mode_only",
        "tls.test_trust::test_e3_what_nobody_trusted_has_issued_is_refused",
        "tls.test_trust::test_a_good_certificate_is_accepted",
    ),
    "SslProtVersion": row(
        "SslProtVersion",
        "test_options::test_the_enums_of_tls_have_the_order_of_nim",
        "tls.test_contexts::test_broken_versions_are_an_error_that_says_what_to_use",
        "tls.test_contexts::test_tls_1_0_must_be_asked_for_twice",
        "tls.test_contexts::test_e9_old_versions_are_spoken_only_by_who_asks_for_them_by_name",
    ),
    "SslContext": row(
        "SslContext SslContext.context",
        "test_exports::test_a_context_wraps_one_of_pyopenssls_and_is_a_context_manager",
    ),
    "SslAcceptResult": row(
        "SslAcceptResult Socket.try_accept",
        "test_options::test_the_enums_of_tls_have_the_order_of_nim",
        "test_accepting::test_trying_to_accept_finds_nobody_where_nobody_is",
        "test_accepting::test_trying_to_accept_gives_a_socket_as_accept_does",
        "test_accepting::test_trying_to_accept_lets_nobody_else_run",
        "test_accepting::test_trying_to_accept_comes_before_those_who_wait_and_they_wait_on",
        "tls_transport.test_starttls_accepting::test_a_client_that_says_nothing_is_accepted_and_its_handshake_is_still_to_be_made",
        "tls_transport.test_starttls_accepting::test_a_client_that_answers_within_the_call_is_accepted_with_its_handshake_complete",
        "tls_transport.test_starttls_accepting::test_a_handshake_that_fails_at_once_is_told_by_its_own_socket_and_not_by_the_listener",
    ),
    "SslHandshakeType": row(
        "SslHandshakeType",
        "test_options::test_the_enums_of_tls_have_the_order_of_nim",
        "tls.test_contexts::test_a_handshake_of_another_type_is_a_type_error",
    ),
    "SslClientGetPskFunc, SslServerGetPskFunc": row(
        "SslClientGetPskFunc SslServerGetPskFunc",
        "test_exports::test_the_callables_of_pre_shared_keys_have_names_for_their_types",
        "tls.test_psk::test_a_function_that_is_none_is_a_type_error",
    ),
    "raiseSSLError": row(
        "raise_ssl_error",
        "tls.test_contexts::test_raise_ssl_error_raises_what_is_said",
        "tls.test_contexts::test_raise_ssl_error_raises_what_openssl_said_last_and_empties_its_queue",
        "test_nim_facts_tls::test_raise_ssl_error_raises_what_it_is_given",
        "test_nim_facts_tls::test_raise_ssl_error_without_an_error_in_the_queue_says_so",
    ),
    "getExtraData, setExtraData": row(
        "SslContext.get_extra_data SslContext.set_extra_data get_ssl_context_extra_data_index",
        "tls.test_contexts::test_extra_data_is_kept_under_numbers_that_nobody_else_has",
        "tls.test_contexts::test_an_index_of_another_type_is_a_type_error",
    ),
    "newContext": row(
        "new_context CIPHERS_INTERMEDIATE InsecureWarning",
        "tls.test_contexts::test_the_newest_version_that_both_allow_is_spoken",
        "tls.test_contexts::test_the_default_list_has_no_cipher_without_forward_secrecy_or_authentication",
        "tls.test_contexts::test_after_its_first_connection_a_context_does_not_change",
        "tls.test_contexts::test_e22_both_agree_on_a_protocol_or_on_none",
        "tls.test_contexts::test_the_key_log_has_what_wireshark_needs_and_is_for_its_owner_only",
        "tls.test_contexts::test_e21_a_server_shows_the_certificate_for_the_name",
        "tls.test_contexts::test_a_client_without_verification_warns_once_in_a_process_and_a_server_never",
        "tls.test_certificates::test_authorities_that_are_given_stand_for_those_of_certifi",
        "tls.test_certificates::test_arguments_come_before_the_variables",
        "tls.test_certificates::test_e19_a_bad_certificate_is_an_error_of_new_context_that_names_the_file",
        "tls.test_certificates::test_e19_a_bad_key_is_an_error_of_new_context_that_names_the_file",
        "tls.test_certificates::test_an_encrypted_key_is_opened_with_its_password",
        "tls.test_certificates::test_e20_a_file_without_authorities_is_an_error_of_new_context",
        "tls.test_certificates::test_a_server_asks_only_if_it_was_given_authorities",
        "tls.test_certificates::test_a_client_without_a_certificate_is_served_unless_it_is_demanded",
        "tls_transport.test_transport::test_a_truncated_stream_is_an_end_where_the_context_allows_it",
    ),
    "destroyContext": row(
        "SslContext.destroy_context",
        "tls.test_contexts::test_connections_go_on_when_their_context_is_destroyed",
        "tls.test_contexts::test_a_destroyed_context_makes_no_connections",
        "tls.test_contexts::test_a_destroyed_context_lets_go_of_what_it_held",
    ),
    "pskIdentityHint=, clientGetPskFunc(=), serverGetPskFunc(=)": row(
        "SslContext.psk_identity_hint SslContext.client_get_psk_func SslContext.server_get_psk_func",
        "tls.test_psk::test_the_properties_are_empty_until_set_and_give_back_what_was_set",
        "tls.test_psk::test_both_ends_agree_on_the_identity_and_speak",
        "tls.test_psk::test_on_tls_1_2_the_client_is_given_the_hint",
        "tls.test_psk::test_an_identity_that_is_no_utf8_is_unknown_and_nobody_is_asked",
        "tls.test_psk::test_another_identity_or_key_is_refused_at_both_ends",
        "tls.test_psk::test_the_server_is_asked_at_every_connection_and_always_knows_who_it_is",
        "tls.test_psk::test_a_session_of_somebody_with_a_key_goes_on_for_nobody_without_one",
    ),
    "getPskIdentity": row(
        "Socket.get_psk_identity",
        "tls.test_psk::test_an_identity_arrives_as_it_was_given",
        "tls.test_psk::test_each_connection_has_the_identity_of_its_own_client",
        "tls.test_psk::test_nobody_gets_an_identity_without_its_key",
        "tls.test_psk::test_before_the_handshake_nobody_has_an_identity",
    ),
    "wrapSocket": row(
        "SslContext.wrap_socket",
        "tls.test_contexts::test_the_wrong_way_to_wrap_is_an_error_that_names_the_right_one",
        "tls.test_contexts::test_a_wrapped_socket_that_did_not_connect_sends_nothing_in_clear",
        "tls.test_psk::test_a_key_works_through_dial_and_accept",
        "tls_transport.test_transport::test_whoever_comes_first_makes_the_handshake",
    ),
    "wrapConnectedSocket": row(
        "SslContext.wrap_connected_socket",
        "tls.test_trust::test_e6_a_client_that_verifies_must_say_whom_it_expects",
        "tls.test_trust::test_e6_a_name_of_another_type_is_a_type_error",
        "tls.test_contexts::test_a_connection_speaks_tls_once_only",
        "tls_transport.test_transport::test_bytes_that_came_in_clear_before_starttls_are_an_error",
        "tls_transport.test_transport::test_what_was_queued_before_starttls_goes_in_clear",
    ),
    "getPeerCertificates": row(
        "Socket.get_peer_certificates get_peer_certificates",
        "tls.test_certificates::test_the_chain_of_the_peer_is_the_verified_one_leaf_first",
        "tls.test_certificates::test_the_chain_is_the_one_that_was_verified_and_not_the_one_that_was_sent",
        "tls.test_certificates::test_without_verification_there_is_no_chain",
        "tls.test_certificates::test_before_the_handshake_and_after_a_refusal_there_is_no_chain",
        "tls.test_sessions::test_the_chain_of_a_resumed_session_is_that_of_the_first_connection",
    ),
    "sessionIdContext=": row(
        "SslContext.session_id_context",
        "tls.test_contexts::test_a_session_id_context_of_up_to_32_bytes_is_kept",
        "tls.test_contexts::test_a_session_id_context_over_32_bytes_is_an_error_that_tells_the_limit",
        "tls.test_sessions::test_a_server_with_another_session_id_context_does_not_take_the_session",
    ),
    "gotHandshake, sslHandle": row(
        "Socket.got_handshake Socket.ssl_handle",
        "tls.test_contexts::test_got_handshake_tells_whether_it_is_complete",
        "tls.test_contexts::test_a_tls_call_on_a_plain_socket_is_an_error_that_says_so",
        "tls.test_contexts::test_a_tls_call_before_there_is_a_connection_is_an_error_that_says_so",
    ),
}

# What gnet has beyond Nim.

OWN_TLS_ROWS: Final = {
    "renewed": row(
        "SslContext.renewed",
        "tls.test_contexts::test_a_renewed_context_has_the_files_as_they_are_now_and_all_else_as_before",
        "server.test_tls::test_a_reload_that_fails_keeps_the_old_context",
    ),
    "do_handshake": row(
        "Socket.do_handshake",
        "tls_transport.test_transport::test_a_handshake_that_timed_out_can_be_gone_on_with",
        "tls_transport.test_transport::test_a_handshake_that_fails_at_its_deadline_names_the_peer_and_closes",
        "tls_transport.test_tls_faults::test_e12_a_stalled_handshake_ends_at_its_deadline_and_holds_nobody_up",
        "tls_transport.test_tls_cancellation::test_an_interrupted_handshake_of_a_server_goes_on",
    ),
    "alpn_protocol": row(
        "Socket.alpn_protocol",
        "tls.test_contexts::test_e22_both_agree_on_a_protocol_or_on_none",
        "tls_transport.test_tls_faults::test_e22_without_a_common_application_protocol_there_is_none",
    ),
    "sessions": row(
        "",
        "tls.test_sessions::test_the_second_connection_goes_on_with_the_session_of_the_first",
        "tls.test_sessions::test_the_chain_of_a_resumed_session_is_that_of_the_first_connection",
        "tls.test_sessions::test_e24_sessions_are_kept_by_name",
    ),
}

# What holds for several calls.

GENERAL_TLS_ROWS: Final = {
    "TLS everywhere": row(
        "",
        "tls_transport.test_transport::test_data_goes_both_ways",
        "tls_transport.test_transport::test_unbuffered_reads_give_the_stream_or_say_that_they_can_not",
        "tls_transport.test_tls_cancellation::test_an_interrupted_read_loses_no_byte",
        "tls_transport.test_tls_cancellation::test_an_interrupted_send_breaks_the_write_side_and_tells_how_much_went",
        "tls_transport.test_transport::test_a_tls_socket_that_is_dropped_unclosed_is_collected_with_a_warning",
    ),
}
