"""What gnet has of Nim's `net`, and beyond it: for each row its names and the tests that check them.

A name is one of `gnet.__all__`, or `Socket.x` and `SslContext.x` for what those have. A test is
`module::function`, from `tests` on. `test_exports.py` holds this against the package and against the tests,
both ways. The rows about TLS are in `api_rows_tls.py`, the signatures in `api_signatures.py`.
"""

from __future__ import annotations

from typing import Final

from tests.api_rows_tls import GENERAL_TLS_ROWS, NIM_TLS_ROWS, OWN_TLS_ROWS, row

# Rows of Nim's `net` that have nothing to do with TLS, by the names they have there.

NIM_ROWS: Final = {
    "SocketImpl, Socket": row(
        "Socket",
        "test_sockets::test_a_socket_is_of_the_kind_that_was_asked_for",
        "test_sockets::test_both_ends_of_a_pair_speak",
        "test_exports::test_a_socket_is_not_duplicated",
    ),
    "SOBool": row(
        "SOBool",
        "test_options::test_options_stand_in_the_order_of_nim",
        "test_options::test_a_real_socket_takes_the_option_and_changes_no_other",
    ),
    "ReadLineResult": row(
        "ReadLineResult",
        "test_options::test_results_and_families_have_the_order_of_nim",
        "test_reading::test_trying_for_a_line_never_waits_and_never_takes_a_part",
    ),
    "TimeoutError": row(
        "TimeoutError",
        "test_errors::test_gnets_timeout_is_the_builtins_and_the_kernels_etimedout_is_not_gnets",
        "test_handles::test_the_timeout_of_the_socket_is_the_default_of_every_read",
    ),
    "SocketFlag": row(
        "SocketFlag",
        "test_options::test_flags_are_a_set_of_just_two",
        "test_reading::test_a_look_gives_what_is_here_and_takes_nothing",
        "test_datagrams::test_a_look_leaves_the_datagram",
    ),
    "IpAddressFamily": row(
        "IpAddressFamily ip_family",
        "test_options::test_results_and_families_have_the_order_of_nim",
        "test_addresses::test_an_ipv4_address_written_as_ipv6_stays_ipv6_and_differs_from_the_ipv4_one",
    ),
    "IpAddress": row(
        "IpAddress",
        "test_addresses::test_the_text_of_any_address_parses_back_to_it",
        "test_addresses::test_an_ipv4_address_written_as_ipv6_stays_ipv6_and_differs_from_the_ipv4_one",
    ),
    "BufferSize, MaxLineLength": row(
        "BUFFER_SIZE MAX_LINE_LENGTH",
        "test_options::test_buffer_size_and_line_limit_are_those_of_nim",
    ),
    "isDisconnectionError": row(
        "is_disconnection_error",
        "test_errors::test_just_three_errnos_are_disconnections_when_the_flags_ask",
        "test_errors::test_without_safe_disconn_nothing_is_a_disconnection",
    ),
    "toOSFlags": row("SocketFlag", "test_options::test_flags_become_the_bits_of_the_system"),
    "newSocket": row(
        "new_socket Socket.adopt",
        "test_sockets::test_a_socket_is_of_the_kind_that_was_asked_for",
        "test_sockets::test_a_socket_is_tcp_over_ipv4_unless_asked_otherwise_and_does_not_delay_small_messages",
        "test_sockets::test_a_descriptor_is_closed_on_exec_unless_it_is_to_be_inherited",
        "test_sockets::test_a_kind_that_the_system_has_not_is_an_error_that_names_it",
        "test_sockets::test_numbers_that_describe_no_socket_are_refused",
        "test_sockets::test_a_socket_can_be_made_around_a_descriptor",
        "test_sockets::test_a_descriptor_that_is_no_socket_is_refused_and_left_open",
        "test_sockets::test_a_connected_socket_is_taken_over_and_left_detached",
        "test_sockets::test_a_tls_socket_is_refused_and_stays_as_it_was",
        "test_sockets::test_closed_and_detached_sockets_are_refused",
        "test_sockets::test_what_is_no_socket_is_refused_by_its_type",
        "test_datagrams::test_datagrams_stay_apart_and_none_is_read_ahead",
        "test_reading::test_an_unbuffered_socket_takes_no_byte_that_was_not_asked_for",
    ),
    "parseIpAddress, isIpAddress": row(
        "parse_ip_address is_ip_address",
        "test_addresses::test_any_text_is_either_an_address_of_the_stdlib_or_a_value_error",
        "test_nim_addresses::test_is_ip_address_says_what_parse_ip_address_does",
    ),
    "toSockAddr, fromSockAddr": row(
        "to_sock_addr from_sock_addr",
        "test_addresses::test_a_socket_address_leads_back_to_address_and_port",
        "test_addresses::test_any_other_socket_address_is_neither_ipv4_nor_ipv6",
    ),
    "getSocketError, socketError": row(
        "Socket.get_socket_error Socket.socket_error",
        "test_handles::test_a_socket_without_an_error_says_that_none_is_known",
        "test_handles::test_the_error_of_a_socket_is_its_own_and_stays",
        "test_handles::test_the_error_of_a_call_is_raised_unless_it_is_to_be_overlooked",
        "test_handles::test_without_a_number_the_error_of_the_socket_is_raised",
    ),
    "listen, bindAddr": row(
        "Socket.listen Socket.bind_addr SOMAXCONN",
        "test_accepting::test_a_socket_binds_to_every_address_and_a_free_port_unless_told_otherwise",
        "test_accepting::test_a_socket_binds_to_the_address_and_port_that_were_asked_for",
        "test_accepting::test_a_port_that_is_taken_and_an_address_of_others_are_named",
        "test_accepting::test_what_is_no_address_to_bind_to_is_refused_and_binds_nothing",
        "test_accepting::test_a_socket_that_is_not_bound_listens_on_a_port_of_the_systems_choice",
        "test_accepting::test_any_number_is_a_backlog",
    ),
    "acceptAddr, accept": row(
        "Socket.accept_addr Socket.accept",
        "test_accepting::test_accepting_tells_the_true_address_of_the_peer",
        "test_accepting::test_accepting_over_unix_tells_the_path_or_name_of_the_peer",
        "test_accepting::test_each_accept_makes_a_new_socket_that_knows_nothing_of_those_before",
        "test_accepting::test_an_accepted_descriptor_is_inherited_just_if_that_was_asked_for",
        "test_accepting::test_a_connection_that_is_here_is_accepted_without_waiting",
        "test_accepting::test_waiting_for_a_connection_ends_in_time_and_loses_none",
        "test_accepting::test_several_greenlets_accept_and_each_gets_one_in_the_order_they_came",
        "test_accepting::test_a_connection_that_is_gone_before_it_is_accepted_is_passed_over",
        "test_accepting::test_a_connection_that_is_gone_before_it_is_accepted_is_an_error_without_safe_disconn",
        "tls_transport.test_tls_faults::test_c13_clients_that_connect_and_leave_are_passed_over",
        "tls_transport.test_transport::test_whoever_comes_first_makes_the_handshake",
    ),
    "close": row(
        "Socket.close Socket.closed",
        "test_closing::test_closing_is_done_once_and_again_without_effect",
        "test_closing::test_closing_wakes_a_reader_at_once",
        "test_closing::test_what_is_queued_goes_out_before_the_end",
        "test_closing::test_a_close_that_cannot_hand_over_what_was_sent_resets_the_connection",
        "test_closing::test_a_closed_socket_says_so_in_every_call",
        "test_cancellation::test_an_interrupted_close_closes_and_ends_in_order_only_if_all_went",
        "tls_transport.test_transport::test_close_sends_close_notify_once",
        "tls_transport.test_transport::test_close_does_not_wait_for_a_peer_that_does_not_read",
        "tls_transport.test_transport::test_a_client_that_closes_without_ever_having_read_loses_nothing",
    ),
    "toCInt": row("SOBool", "test_options::test_options_have_the_numbers_recorded_from_nim"),
    "getSockOpt, setSockOpt": row(
        "Socket.get_sock_opt Socket.set_sock_opt Socket.set_keepalive Socket.set_user_timeout",
        "test_handles::test_an_option_is_switched_in_the_kernel_and_read_back",
        "test_handles::test_no_delay_lives_at_the_level_of_tcp_and_leaves_debugging_alone",
        "test_handles::test_other_options_go_by_number_and_level_with_an_int_or_bytes",
        "test_handles::test_what_is_no_option_is_refused_and_nothing_is_set",
        "test_handles::test_keepalive_is_set_in_the_kernel",
        "test_handles::test_the_user_timeout_is_set_in_the_kernel",
        "faults.test_network::test_a5_a_peer_that_vanishes_while_we_read_ends_by_deadline_or_keepalive",
    ),
    "getLocalAddr, getPeerAddr": row(
        "Socket.get_local_addr Socket.get_peer_addr",
        "test_handles::test_both_ends_of_a_connection_agree_about_their_addresses",
        "test_handles::test_an_ipv4_peer_of_an_ipv6_socket_has_its_address_in_ipv6_form",
        "test_handles::test_unix_sockets_have_a_path_a_name_or_nothing_as_address",
        "test_handles::test_an_unbound_socket_has_no_port_and_an_unconnected_one_no_peer",
    ),
    "connectUnix, bindUnix": row(
        "Socket.connect_unix Socket.bind_unix",
        "test_connecting::test_paths_may_be_text_bytes_or_path_objects",
        "test_connecting::test_abstract_names_are_exact_and_may_be_text_or_bytes",
        "test_connecting::test_the_longest_path_has_107_bytes_and_the_longest_abstract_name_108",
        "test_connecting::test_what_is_no_path_is_refused_and_the_socket_is_as_before",
        "test_connecting::test_a_full_queue_is_waited_for",
        "test_connecting::test_a_full_queue_is_waited_for_no_longer_than_the_timeout",
    ),
    "hasDataBuffered": row(
        "Socket.has_data_buffered",
        "test_reading::test_a_buffered_socket_reads_ahead_and_says_so",
        "tls_transport.test_transport::test_what_openssl_holds_counts_as_buffered",
        "tls_transport.test_transport::test_records_that_were_taken_from_the_kernel_count_as_buffered",
    ),
    "recv": row(
        "Socket.recv Socket.recv_into",
        "test_reading::test_a_buffered_recv_gives_all_that_was_asked_for_and_less_only_at_the_end",
        "test_reading::test_an_unbuffered_recv_gives_what_one_read_gives",
        "test_reading::test_receiving_into_a_buffer_fills_it_or_as_much_as_was_asked_for",
        "test_reading::test_without_safe_disconn_a_reset_is_an_error_and_with_it_an_end",
        "test_reading::test_a_timeout_of_zero_gives_what_the_kernel_has_and_does_not_wait",
        "test_cancellation::test_an_interrupted_read_loses_no_byte",
        "test_nim_streams::test_gnet_gives_the_answers_of_the_model_with_all_rules",
    ),
    "readLine, recvLine": row(
        "Socket.read_line Socket.recv_line",
        "test_reading::test_reads_do_not_depend_on_how_the_bytes_arrive",
        "test_reading::test_a_line_that_ends_in_cr_is_not_lost_while_its_end_is_unclear",
        "test_mixed_reads::test_reads_in_any_mix_deliver_the_stream_byte_for_byte",
        "test_exports::test_recv_line_is_read_line",
        "test_nim_streams::test_gnet_gives_the_answers_of_the_model_with_all_rules",
    ),
    "recvFrom": row(
        "Socket.recv_from",
        "test_datagrams::test_a_datagram_comes_with_the_address_of_its_sender",
        "test_datagrams::test_an_ipv4_sender_is_shown_as_ipv4_on_a_socket_of_ipv6",
        "test_datagrams::test_a_datagram_longer_than_asked_for_is_an_error_and_the_next_comes_whole",
        "test_datagrams::test_the_start_of_a_long_datagram_is_given_where_that_was_asked_for",
        "test_datagrams::test_waiting_for_a_datagram_ends_in_time_and_loses_none",
        "test_datagrams::test_several_receivers_get_one_datagram_each_in_the_order_they_came",
        "test_dataflow::test_a_call_that_makes_no_sense_is_refused_and_the_socket_is_as_before",
    ),
    "skip": row("Socket.skip", "test_reading::test_reads_do_not_depend_on_how_the_bytes_arrive"),
    "send, &=": row(
        "Socket.send Socket.__iand__",
        "test_dataflow::test_bytes_and_views_of_bytes_are_sent_as_they_are",
        "test_dataflow::test_the_operator_sends_and_gives_the_socket_itself",
        "test_dataflow::test_flags_do_not_change_what_send_does",
        "test_dataflow::test_what_is_no_data_is_refused_and_nothing_is_sent",
        "test_cancellation::test_an_interrupted_send_breaks_the_write_side_and_tells_how_much_went",
        "faults.test_load::test_a10_messages_arrive_whole_and_in_order_however_little_the_kernel_takes",
        "faults.test_load::test_a11_after_a_cut_send_nothing_more_is_sent_and_the_peer_sees_a_reset",
    ),
    "trySend": row(
        "Socket.try_send",
        "test_dataflow::test_trying_to_send_takes_all_or_nothing",
        "faults.test_load::test_a10_what_try_send_took_goes_out_before_the_next_send",
    ),
    "sendTo": row(
        "Socket.send_to",
        "test_datagrams::test_a_datagram_is_sent_to_an_address",
        "test_datagrams::test_a_datagram_is_sent_to_a_name",
        "test_datagrams::test_a_socket_of_ipv6_sends_to_ipv4_addresses",
        "test_datagrams::test_what_is_no_target_is_refused_and_nothing_is_sent",
    ),
    "isSsl, getFd": row(
        "Socket.is_ssl Socket.get_fd Socket.fileno",
        "test_handles::test_a_plain_socket_is_no_tls_socket_before_and_after_it_is_closed",
        "test_handles::test_a_socket_shows_its_descriptor_and_where_it_leads",
        "test_closing::test_closing_is_done_once_and_again_without_effect",
        "test_nim_facts_tls::test_a_wrapped_socket_is_an_ssl_socket_without_data_and_its_handshake_is_to_come",
    ),
    "IPv4_any … IPv6_loopback": row(
        "ipv4_any ipv4_loopback ipv4_broadcast ipv6_any ipv6_loopback",
        "test_addresses::test_the_constants_are_those_of_nim",
    ),
    "dial": row(
        "dial",
        "test_dialing::test_dialling_an_address_gives_a_connected_socket",
        "test_dialing::test_dialling_a_name_tries_both_families",
        "test_dialing::test_a_dialled_socket_is_buffered_as_was_asked_for",
        "test_dialing::test_dialling_with_udp_gives_a_connected_datagram_socket",
        "test_dialing::test_a_dialled_socket_comes_from_the_address_and_port_that_were_asked_for",
        "test_dialing::test_a_dial_that_is_refused_everywhere_names_each_attempt_and_has_them_as_cause",
        "test_dialing::test_bad_arguments_are_refused_and_nothing_is_connected",
        "test_dialing::test_literal_addresses_and_localhost_never_reach_the_threads_of_the_resolver",
        "faults.test_connecting::test_a17_a_dead_first_address_costs_one_stagger_and_no_descriptor",
        "faults.test_connecting::test_a17_a_dial_that_is_ended_in_any_phase_leaves_no_descriptor",
        "tls.test_trust::test_e4_the_name_that_was_asked_for_counts_and_not_the_address_it_leads_to",
        "tls.test_trust::test_a_refused_peer_leaves_no_socket_open",
    ),
    "connect": row(
        "Socket.connect",
        "test_connecting::test_a_socket_connects_to_a_literal_address",
        "test_connecting::test_a_socket_connects_to_a_name",
        "test_connecting::test_a_refused_socket_connects_at_the_next_try",
        "test_connecting::test_a_connected_socket_does_not_connect_again",
        "test_connecting::test_a_connect_without_an_answer_ends_in_time_and_names_what_it_did",
        "test_connecting::test_a_connect_that_was_cut_leaves_a_closed_socket",
        "test_connecting::test_what_is_no_target_is_refused_and_the_socket_is_as_before",
        "tls_transport.test_tls_faults::test_d6_a_client_handshake_that_times_out_names_its_phase",
    ),
    "getPrimaryIPAddr": row(
        "get_primary_ip_addr",
        "test_addresses::test_the_primary_address_towards_loopback_is_loopback",
        "test_addresses::test_the_primary_address_is_one_that_this_machine_can_bind_to",
    ),
    "Port, Domain, SockType, Protocol": row(
        "Port AF_INET AF_INET6 AF_UNIX AF_UNSPEC SOCK_STREAM SOCK_DGRAM SOCK_RAW SOCK_SEQPACKET "
        "IPPROTO_TCP IPPROTO_UDP IPPROTO_IP IPPROTO_IPV6 IPPROTO_RAW IPPROTO_ICMP IPPROTO_ICMPV6",
        "test_options::test_domains_types_and_protocols_have_the_numbers_recorded_from_nim",
        "test_options::test_domains_and_types_are_the_enums_of_the_stdlib",
        "test_options::test_a_port_is_a_plain_int_so_that_getaddrinfo_takes_it",
        "test_options::test_a_port_out_of_range_is_a_value_error_that_says_the_range_and_the_number",
    ),
}

# What gnet has beyond Nim.

OWN_ROWS: Final = {
    "Server": row(
        "Server",
        "server.test_deadlines::test_a_server_with_all_defaults_watches_by_them",
        "server.test_listeners::test_wrong_arguments_are_refused_by_name_before_anything_is_opened",
        "server.test_draining::test_f2_stop_with_the_defaults_waits_for_handlers",
    ),
    "serve": row(
        "serve",
        "test_workers::test_serve_forks_workers_reloads_them_and_drains",
    ),
    "timeout": row(
        "Socket.timeout",
        "test_handles::test_the_timeout_is_kept_in_milliseconds",
        "test_handles::test_what_is_no_timeout_is_refused_and_the_old_one_stays",
        "test_handles::test_the_timeout_of_the_socket_is_the_default_of_every_read",
        "test_handles::test_a_timeout_in_the_call_counts_instead_of_that_of_the_socket",
        "test_handles::test_the_timeout_of_the_socket_is_the_default_of_the_other_calls_that_wait",
    ),
    "lines": row(
        "Socket.lines Socket.__iter__ LineTooLongError IncompleteReadError",
        "test_reading::test_reads_do_not_depend_on_how_the_bytes_arrive",
        "test_reading::test_a_line_over_the_limit_ends_the_loop_and_the_stream",
        "test_reading::test_a_loop_over_lines_has_a_limit_of_64_kib_unless_told_otherwise",
        "test_reading::test_other_reads_between_two_lines_take_over_where_the_loop_is",
        "test_reading::test_the_timeout_of_a_loop_over_lines_is_for_each_line",
    ),
    "recv_some": row("Socket.recv_some", "test_reading::test_reads_do_not_depend_on_how_the_bytes_arrive"),
    "recv_exactly": row(
        "Socket.recv_exactly IncompleteReadError",
        "test_reading::test_reads_do_not_depend_on_how_the_bytes_arrive",
        "test_reading::test_a_recv_of_much_more_than_the_kernel_holds_gives_it_all",
    ),
    "recv_until": row(
        "Socket.recv_until",
        "test_reading::test_reads_do_not_depend_on_how_the_bytes_arrive",
        "test_reading::test_a_delimiter_that_does_not_come_within_the_limit_ends_the_stream",
        "test_mixed_reads::test_a_search_for_a_delimiter_that_fails_leaves_all_line_ends_to_others",
    ),
    "peek": row(
        "Socket.peek",
        "test_reading::test_a_look_gives_what_is_here_and_takes_nothing",
        "test_reading::test_a_look_sees_bytes_that_came_since_the_last_one",
    ),
    "try_read_line": row(
        "Socket.try_read_line",
        "test_reading::test_trying_for_a_line_never_waits_and_never_takes_a_part",
        "test_reading::test_trying_for_a_line_gives_a_long_one_in_parts",
    ),
    "read_lines": row(
        "Socket.read_lines",
        "test_reading::test_lines_in_batches_are_those_that_come_one_by_one",
        "test_reading::test_a_batch_waits_for_its_first_line_only_and_leaves_the_start_of_the_next",
        "test_reading::test_lines_in_batches_come_in_parts_of_the_limit",
    ),
    "flush": row(
        "Socket.flush",
        "test_dataflow::test_a_flush_waits_until_the_kernel_has_all_and_no_longer_than_its_timeout",
        "test_cancellation::test_an_interrupted_flush_loses_nothing",
        "tls_transport.test_transport::test_flush_waits_for_the_ciphertext",
    ),
    "shutdown": row(
        "Socket.shutdown",
        "test_closing::test_a_half_closed_connection_still_receives",
        "test_closing::test_after_the_read_side_is_shut_down_reads_end_and_sends_go_on",
        "test_closing::test_a_shutdown_of_both_sides_ends_both",
        "test_closing::test_what_is_queued_goes_out_before_the_end",
        "tls_transport.test_transport::test_tls_1_3_half_closes",
        "tls_transport.test_transport::test_tls_1_2_refuses_to_half_close_and_goes_on",
    ),
    "coalesce": row(
        "Socket.coalesce",
        "test_accepting::test_an_accepted_socket_is_buffered_as_its_listener_and_coalesces",
        "test_dataflow::test_answers_wait_for_each_other_just_while_input_waits_and_coalesce_is_on",
        "test_dataflow::test_a_dialled_socket_coalesces_where_that_was_asked_for",
    ),
    "detach": row(
        "Socket.detach",
        "test_closing::test_a_detached_descriptor_is_blocking_again_and_the_socket_is_done",
        "test_closing::test_detaching_is_refused_while_bytes_are_buffered_in_either_direction",
        "tls_transport.test_transport::test_the_descriptor_of_a_tls_socket_is_not_given_away",
    ),
    "with": row(
        "Socket.__enter__ Socket.__exit__",
        "test_closing::test_a_with_block_closes_and_lets_errors_through",
    ),
    "for line in socket": row(
        "Socket.__iter__", "test_reading::test_a_loop_over_lines_has_a_limit_of_64_kib_unless_told_otherwise"
    ),
    "deadline": row(
        "deadline",
        "test_deadlines::test_whatever_waits_in_a_block_is_ended_and_not_only_calls_of_gnet",
        "test_deadlines::test_a_block_that_is_over_in_time_is_left_alone",
        "test_deadlines::test_a_block_with_timeout_0_is_ended_by_its_first_wait",
        "test_deadlines::test_the_end_of_a_callers_own_timeout_passes_through_a_block",
        "faults.test_network::test_a8_a_block_deadline_holds_while_bytes_drip",
    ),
    "an unclosed socket": row(
        "Socket.__del__ Socket.__repr__",
        "test_closing::test_a_socket_that_is_dropped_unclosed_warns_where_it_was_made_and_is_closed",
        "test_handles::test_a_socket_shows_its_descriptor_and_where_it_leads",
    ),
    "the package": row(
        "__version__",
        "test_exports::test_importing_gnet_patches_nothing_and_starts_nothing",
        "test_packaging::test_the_metadata_says_what_the_project_says",
        "test_packaging::test_the_installed_wheel_imports_and_knows_its_version",
    ),
}

# What holds for several calls.

GENERAL_ROWS: Final = {
    "timeouts": row(
        "",
        "test_dataflow::test_a_timeout_that_is_none_is_refused_and_nothing_is_taken_or_sent",
        "test_reading::test_a_timeout_of_zero_gives_what_the_kernel_has_and_does_not_wait",
        "test_deadlines::test_g3_a_timeout_is_milliseconds_or_a_timedelta_or_no_limit",
        "test_deadlines::test_g3_every_call_refuses_what_is_no_timeout_before_it_does_anything",
        "test_deadlines::test_g4_a_line_that_is_in_the_kernel_wins_over_the_timeout",
        "faults.test_network::test_a8_the_deadline_holds_while_bytes_drip_and_they_stay",
    ),
    "flags": row("", "test_dataflow::test_flags_of_another_kind_are_refused_and_nothing_is_taken_or_sent"),
    "bytes": row(
        "",
        "test_dataflow::test_what_is_no_data_is_refused_and_nothing_is_sent",
        "test_names::test_what_is_no_host_name_is_refused",
    ),
    "sizes": row("", "test_dataflow::test_a_size_that_is_none_is_refused_and_nothing_is_taken"),
    "errors": row(
        "ClosedError BusyError BrokenSendError LineTooLongError IncompleteReadError",
        "test_errors::test_errors_of_the_connection_are_os_errors_without_a_number",
        "test_reading::test_a_second_reader_is_refused_and_the_first_one_gets_the_data",
        "test_closing::test_no_error_is_its_own_cause",
        "test_errors::test_none_of_the_connection_errors_is_caught_as_another_one",
    ),
    "sticky errors": row(
        "", "faults.test_network::test_a1_a_reset_that_another_call_meets_first_is_no_clean_end_for_reads"
    ),
    "resets": row(
        "",
        "faults.test_network::test_a1_a_reset_reads_as_the_end_under_safe_disconn",
        "faults.test_network::test_a1_a_reset_is_raised_by_every_read_again_and_again",
        "tls_transport.test_tls_faults::test_e1_a_stream_without_close_notify_is_an_error_after_its_data",
        "tls_transport.test_transport::test_asking_for_the_sockets_error_does_not_make_an_end_of_a_reset",
    ),
    "threads": row(
        "",
        "test_closing::test_a_call_from_another_thread_is_refused",
        "test_closing::test_a_call_from_another_thread_is_refused_while_answers_are_queued",
        "test_closing::test_a_call_on_a_datagram_socket_from_another_thread_is_refused",
    ),
}

TABLES: Final = (NIM_ROWS, NIM_TLS_ROWS, OWN_ROWS, OWN_TLS_ROWS, GENERAL_ROWS, GENERAL_TLS_ROWS)

ROWS: Final = {name: found for table in TABLES for name, found in table.items()}
