//! What connections do, to the segment.

use super::script::run;

#[test]
fn active_open_and_close() {
    run("
        +0    connect
        +0    > S 0:0 win 65535
        +0.05 < S. 0:0 ack 1 win 1000 mss=1000 sack scale=3
        +0    > . 1:1 ack 1
        +0    changed CONNECTED WRITABLE
        +0    write 100
        +0    > P. 1:101 ack 1
        +0.05 < . 1:1 ack 101
        +0    close
        +0    > F. 101:101 ack 1
        +0    state FinWait1
        +0.05 < . 1:1 ack 102
        +0    state FinWait2
        +0.05 < F. 1:1 ack 102
        +0    > . 102:102 ack 2
        +0    state TimeWait
    ");
}

#[test]
fn a_syn_is_repeated_until_hope_is_lost() {
    run("
        +0 set retries=3
        +0 connect
        +0 > S 0:0
        +1 > S 0:0
        +2 > S 0:0
        +4 > S 0:0
        +8 changed CLOSED
        +0 error ETIMEDOUT
    ");
}

#[test]
fn a_refused_connection_says_so() {
    run("
        +0   connect
        +0   > S 0:0
        +0.1 < R 0:0                # without an acknowledgement, anybody could have sent it
        +0   state SynSent
        +0.1 < R. 0:0 ack 1
        +0   error ECONNREFUSED
    ");
}

#[test]
fn both_open_at_once() {
    run("
        +0   connect
        +0   > S 0:0
        +0.1 < S 0:0 mss=1000 sack
        +0   > S. 0:0 ack 1
        +0   state SynReceived
        +0.1 < S. 0:0 ack 1 mss=1000 sack
        +0   > . 1:1 ack 1
        +0   state Established
    ");
}

#[test]
fn both_close_at_once() {
    run("
        +0   established sack
        +0   close
        +0   > F. 1:1 ack 1
        +0.1 < F. 1:1 ack 1
        +0   > . 2:2 ack 2
        +0   state Closing
        +0.1 < . 2:2 ack 2
        +0   state TimeWait
    ");
}

#[test]
fn the_peer_closes_first() {
    run("
        +0   established
        +0   < F. 1:1 ack 1
        +0   > . 1:1 ack 2
        +0   changed PEER_CLOSED READABLE
        +0   state CloseWait
        +0   write 10
        +0   > P. 1:11 ack 2
        +0   close
        +0   > F. 11:11 ack 2
        +0   state LastAck
        +0.1 < . 2:2 ack 12
        +0   state Closed
    ");
}

#[test]
fn a_fin_rides_on_the_last_data_and_waits_for_missing_data() {
    run("
        +0   established sack
        +0   < FP. 101:201 ack 1
        +0   > . 1:1 ack 1 sack=101-201
        +0   state Established
        +0   < P. 1:101 ack 1
        +0   > . 1:1 ack 202
        +0   state CloseWait
        +0   read 200
        +0   write 2500
        +0   > . 1:1001 ack 202
        +0   > . 1001:2001 ack 202
        +0   > P. 2001:2501 ack 202
        +0   write 10
        +0   shutdown
        +0   > FP. 2501:2511 ack 202
    ");
}

#[test]
fn what_is_lost_is_sent_again_after_a_timeout_that_doubles() {
    run("
        +0   established
        +0   write 500
        +0   > P. 1:501
        +0.3 > P. 1:501          # 100 ms and four deviations of 50 ms
        +0.6 > P. 1:501
        +1.2 > P. 1:501
        +0.1 < . 1:1 ack 501
        +0   write 10
        +0   > P. 501:511
    ");
}

#[test]
fn what_waits_is_sent_at_once_when_the_path_is_back() {
    run("
        +0   established
        +0   write 1500
        +0   > . 1:1001
        +0   > P. 1001:1501
        +0.3 > P. 1:1001
        +0.6 > P. 1:1001
        +1.2 > P. 1:1001
        +1   returned
        +0   > P. 1:1001
        +0.3 > P. 1:1001
        +0.6 > P. 1:1001
        +0.1 < . 1:1 ack 1001
        +0   > P. 1001:1501
        +0.1 < . 1:1 ack 1501
    ");
    run("
        +0 connect
        +0 > S 0:0
        +1 > S 0:0
        +2 > S 0:0
        +1 returned
        +0 > S 0:0
        +1 > S 0:0
        +0 < S. 0:0 ack 1
        +0 > . 1:1 ack 1
    ");
    run("
        +0    established window=1000
        +0    write 2000
        +0    > . 1:1001
        +0.1  < . 1:1 ack 1001 win 0
        +0.3  > . 1000:1000
        +0.6  > . 1000:1000
        +0.5  returned
        +0    > . 1000:1000
        +0.3  > . 1000:1000
        +0.1  < . 1:1 ack 1001 win 5000
        +0    > P. 1001:2001
    ");
}

#[test]
fn three_duplicates_repair_a_loss_without_sack() {
    run("
        +0   set reno
        +0   established
        +0   write 8000
        +0   > . 1:1001
        +0   > . 1001:2001
        +0   > . 2001:3001
        +0   > . 3001:4001
        +0   > . 4001:5001
        +0   > . 5001:6001
        +0   > . 6001:7001
        +0   > P. 7001:8001
        +0.1 < . 1:1 ack 1001
        +0   < . 1:1 ack 1001
        +0   < . 1:1 ack 1001
        +0   < . 1:1 ack 1001
        +0   > P. 1001:2001
        +0   < . 1:1 ack 1001
        +0.1 < . 1:1 ack 3001       # a part: the next one is lost as well
        +0   > P. 3001:4001
        +0.1 < . 1:1 ack 8001
        +0   write 10
        +0   > P. 8001:8011
    ");
}

#[test]
fn sack_shows_what_is_lost() {
    run("
        +0   established sack
        +0   write 8000
        +0   > . 1:1001
        +0   > . 1001:2001
        +0   > . 2001:3001
        +0   > . 3001:4001
        +0   > . 4001:5001
        +0   > . 5001:6001
        +0   > . 6001:7001
        +0   > P. 7001:8001
        +0.1 < . 1:1 ack 1001 sack=2001-3001,4001-8001
        +0   > P. 1001:2001
        +0   > P. 3001:4001
        +0.1 < . 1:1 ack 3001 sack=4001-8001
        +0   < . 1:1 ack 8001
        +0   write 10
        +0   > P. 8001:8011
    ");
}

#[test]
fn a_lost_tail_is_probed_for() {
    run("
        +0   established sack
        +0   set nodelay
        +0   write 3000
        +0   > . 1:1001
        +0   > . 1001:2001
        +0   > P. 2001:3001
        +0.1 < . 1:1 ack 1001
        +0.2 > P. 2001:3001          # two round trips
        +0.1 < . 1:1 ack 1001 sack=2001-3001
        +0   > P. 1001:2001
        +0.1 < . 1:1 ack 3001
        +0   write 10
        +0   > P. 3001:3011
    ");
}

#[test]
fn late_segments_are_no_losses() {
    run("
        +0    established sack
        +0    write 3000
        +0    > . 1:1001
        +0    > . 1001:2001
        +0    > P. 2001:3001
        +0.1  < . 1:1 ack 1 sack=1001-2001
        +0.01 < . 1:1 ack 3001
        +0    write 10
        +0    > P. 3001:3011
    ");
}

#[test]
fn a_closed_window_is_probed_until_it_opens() {
    run("
        +0    established window=2000
        +0    write 3000
        +0    > . 1:1001
        +0    > . 1001:2001
        +0.1  < . 1:1 ack 2001 win 0
        +0.3  > . 2000:2000
        +0.1  < . 1:1 ack 2001 win 0
        +0.5  > . 2000:2000
        +0.1  < . 1:1 ack 2001 win 5000
        +0    > P. 2001:3001
    ");
}

#[test]
fn a_full_buffer_closes_the_window_and_a_reader_opens_it() {
    run("
        +0    set receive=4000
        +0    established
        +0    < P. 1:1001 ack 1
        +0    > . 1:1 ack 1001 win 64535       # what the handshake promised stays promised
    ");
}

#[test]
fn acknowledgements_wait_for_data_or_a_second_segment() {
    run("
        +0    established
        +0    < P. 1:101 ack 1
        +0.04 > . 1:1 ack 101
        +0    < P. 101:201 ack 1
        +0    write 10
        +0    > P. 1:11 ack 201
        +0    < P. 201:701 ack 11
        +0    < P. 701:1301 ack 11
        +0    > . 11:11 ack 1301
        +0    read 1300
    ");
}

#[test]
fn short_segments_wait_for_acknowledgements_unless_told_otherwise() {
    run("
        +0   established
        +0   write 10
        +0   > P. 1:11
        +0   write 10
        +0   write 20
        +0.1 < . 1:1 ack 11
        +0   > P. 11:41
        +0   write 5
        +0   set nodelay
        +0   > P. 41:46
        +0   write 5
        +0   > P. 46:51
    ");
}

#[test]
fn a_cork_holds_short_segments_back_for_a_while() {
    run("
        +0   set cork
        +0   established
        +0   write 1500
        +0   > . 1:1001
        +0   < . 1:1 ack 1001
        +0.2 > P. 1001:1501
        +0   < . 1:1 ack 1501
        +0   write 10
        +0   set cork=0
        +0   > P. 1501:1511
        +0   write 10 more
        +0   < . 1:1 ack 1511
        +0   write 10
        +0   > P. 1511:1531
    ");
}

#[test]
fn a_reset_ends_it_only_when_it_is_exact() {
    run("
        +0   established
        +0   < R 100:100
        +0   > . 1:1 ack 1
        +0   state Established
        +0   < R 70000:70000
        +0   < R 1:1
        +0   changed CLOSED
        +0   error ECONNRESET
    ");
}

#[test]
fn what_came_before_a_reset_can_be_read() {
    run("
        +0   established
        +0   < P. 1:11 ack 1
        +0   < R 11:11
        +0   state Closed
        +0   read 10
        +0   error ECONNRESET
    ");
}

#[test]
fn a_blind_attacker_gets_challenges_and_not_many() {
    run("
        +0   established
        +0   < S 100:100
        +0   > . 1:1 ack 1
        +0   < . 1:1 ack 100           # of what was never sent
        +0   > . 1:1 ack 1
        +0   < S 1:1
        +0   > . 1:1
        +0   < S 1:1
        +0   > . 1:1
        +0   < S 1:1
        +0   > . 1:1
        +0   < S 1:1
        +0   > . 1:1
        +0   < S 1:1
        +0   > . 1:1
        +0   < S 1:1
        +0   > . 1:1
        +0   < S 1:1
        +0   > . 1:1
        +0   < S 1:1
        +0   > . 1:1
        +0   < S 1:1
        +0   < . 1:1 ack 100
        +1   < S 1:1
        +0   > . 1:1
        +0   state Established
    ");
}

#[test]
fn old_timestamps_are_refused() {
    run("
        +0    established ts
        +0    < P. 1:11 ack 1 ts=200/0
        +0.04 > . 1:1 ack 11
        +0    < P. 11:21 ack 1 ts=150/0
        +0    > . 1:1 ack 11
        +0    < P. 11:21 ack 1 ts=201/0
        +0.04 > . 1:1 ack 21
        +0    read 20
    ");
}

#[test]
fn received_holes_are_reported_and_duplicates_too() {
    run("
        +0    established sack
        +0    < . 1001:2001 ack 1
        +0    > . 1:1 ack 1 sack=1001-2001
        +0    < . 3001:4001 ack 1
        +0    > . 1:1 ack 1 sack=3001-4001,1001-2001
        +0    < . 1:1001 ack 1
        +0    > . 1:1 ack 2001 sack=3001-4001
        +0    < . 1:1001 ack 1
        +0    > . 1:1 ack 2001 sack=1-1001,3001-4001
        +0    < . 2001:3001 ack 1
        +0    > . 1:1 ack 4001 sack=
        +0    read 4000
    ");
}

#[test]
fn an_idle_peer_is_asked_and_given_up() {
    run("
        +0   set keepalive
        +0   set idle=10
        +0   set interval=5
        +0   set count=2
        +0   established
        +4   < . 1:1 ack 1
        +10  > . 0:0 ack 1
        +1   < . 1:1 ack 1
        +10  > . 0:0
        +5   > . 0:0
        +5   > R. 1:1
        +0   error ETIMEDOUT
    ");
}

#[test]
fn the_user_decides_how_long_to_try() {
    run("
        +0   set timeout=1000
        +0   established
        +0   write 10
        +0   > P. 1:11
        +0.3 > P. 1:11
        +0.6 > P. 1:11
        +0.2 error ETIMEDOUT
    ");
}

#[test]
fn closing_with_unread_data_is_a_reset() {
    run("
        +0   established
        +0   < P. 1:11 ack 1
        +0   close
        +0   > R. 1:1 ack 11
        +0   state Closed
    ");
}

#[test]
fn lingering_for_no_time_is_a_reset() {
    run("
        +0   established
        +0   write 10
        +0   > P. 1:11
        +0   reset
        +0   > R. 11:11
        +0   state Closed
    ");
}

#[test]
fn data_for_nobody_is_a_reset_and_fin_wait_ends() {
    run("
        +0   established
        +0   close
        +0   > F. 1:1
        +0   < . 1:1 ack 2
        +0   < P. 1:11 ack 2
        +0   > R. 2:2
        +0   state Closed
    ");
    run("
        +0   established
        +0   close
        +0   > F. 1:1
        +0   < . 1:1 ack 2
        +59  state FinWait2
        +1   state Closed
    ");
}

#[test]
fn urgent_data_stands_out() {
    run("
        +0   established
        +0   < PU. 1:11 ack 1 urg 5
        +0   changed URGENT READABLE
        +0   read 4
        +0   urgent
        +0   skip 1
        +0   read 5
        +0   urgent EINVAL
        +0.04 > . 1:1 ack 11
        +0   write 10
        +0   > P. 1:11
        +0   write 3 urgent
        +0   > PU. 11:14 urg 3
    ");
}

#[test]
fn congestion_marks_are_echoed_and_obeyed() {
    run("
        +0    established ecn sack
        +0    < P. 1:101 ack 1 ce
        +0    > E. 1:1 ack 101
        +0    < PW. 101:201 ack 1
        +0.04 > . 1:1 ack 201
        +0    write 1000
        +0    > P. 1:1001 ack 201 ect
        +0.1  < E. 201:201 ack 1001
        +0    write 10
        +0    > PW. 1001:1011 ect
        +0    read 200
    ");
}

#[test]
fn a_smaller_path_gets_smaller_segments() {
    run("
        +0   established mss=1460 sack
        +0   write 1460
        +0   > P. 1:1461
        +0   mtu 1000
        +0   > . 1:961
        +0   > P. 961:1461
    ");
}
