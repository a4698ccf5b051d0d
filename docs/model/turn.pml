/*
 * One turn between an API, two workers, a sweeper, a doorbell that gets lost, a log that gets lost and
 * one reader. Everything that can happen between two steps of a process does happen here: a worker dies,
 * pauses, is cut off; commands wait in a connection and reach Redis late, in any order between connections.
 *
 * Names are those of the code. README.md says what stands for what, what is left out, and how to run it.
 * Each -D below takes one protection away and must lead to a counterexample.
 */

#ifndef ATTEMPTS
#define ATTEMPTS  2     /* worker/turn/retry.py: MOST_ATTEMPTS, which is 3 */
#endif
#ifndef TEXTS
#define TEXTS     1     /* deltas of an answer */
#endif
#ifndef FAULTS
#define FAULTS    1     /* how many things go wrong in one run, each of any kind */
#endif

#ifndef KINDS
#define KINDS     63    /* what may go wrong, a sum of these */
#endif
#define DEATH       1   /* a worker or the sweeper dies */
#define PAUSE       2   /* a worker's renewals stay away for longer than it may be trusted */
#define LOST_BELL   4   /* a doorbell is lost, or comes twice */
#define LOST_LOG    8   /* FLUSHALL, a restart without persistence */
#define DRAIN      16   /* a worker hands its turn back */
#define DEAF       32   /* the sweeper cannot read the log */
#define luck_has(kind) (luck > 0 && (KINDS & kind) > 0)

#define WORKERS 2
#define SWEEPER 2       /* its connection to Redis */
#define NOBODY  3
#define MOST    8       /* no turn has more attempts than this: ATTEMPTS + DRAINS + the sweeper's + what mutants add */

mtype = { QUEUED, RUNNING, STOPPING, COMPLETED, STOPPED, FAILED, EXPIRED };
mtype = { START, TEXT, RESET, SNAPSHOT, DONE };

#define is_active    (status == RUNNING || status == STOPPING)
#define is_terminal  (status != QUEUED && status != RUNNING && status != STOPPING)

/* What fences a dead attempt's commands that are still under way when its turn is taken up: an attempt that is
   taken or given back leaves the next number behind, under which the sweeper writes and the next worker runs. */
#ifdef SAME_ATTEMPT
#define raise_at_end
#define claimed_attempt (attempt + 1)
#else
#define raise_at_end attempt++
#define claimed_attempt ((status == QUEUED && attempt > 0) -> attempt : attempt + 1)
#endif

/* --- PostgreSQL: each atomic block on these is one statement ------------------------------------------ */
bool  accepted = false;
mtype status = QUEUED;
byte  attempt = 0;          /* the fencing token */
byte  handed_back = 0;
byte  owner = NOBODY;
bool  lease = false;        /* has not run out */
byte  last_seq = 1;
byte  saved_attempt = 0, saved_seq = 0, saved_texts = 0;    /* the checkpoint */
byte  settled = 0;          /* how many times a terminal status was written */
byte  stored_texts = 0;     /* the answer */
bool  billed[MOST];         /* the ledger: one row per attempt */
bool  called[MOST];         /* what the provider knows: the oracle, which no process reads */

/* --- Redis -------------------------------------------------------------------------------------------- */
bool  bell = false;         /* one or many: a second is like a first that came back */
bool  log_gone = false;
byte  log_attempt = 0, log_seq = 1;                         /* the id of the last entry */
byte  log_texts = 0;                                        /* what folding the log gives */
bool  log_is_whole = true;
chan  wire0 = [1] of { byte, byte, mtype };                 /* sent, not yet executed: attempt, seq, kind */
chan  wire1 = [1] of { byte, byte, mtype };
chan  wire2 = [1] of { byte, byte, mtype };

/* --- a worker's memory, where other threads of it look ------------------------------------------------ */
byte  held[WORKERS];        /* the attempt that it runs, 0 for none */
byte  shown[WORKERS];       /* deltas */
byte  seq[WORKERS];
bool  trusted[WORKERS];     /* its last renewal is young enough by its own clock */
bool  fenced[WORKERS];
bool  asked[WORKERS];       /* a stop reached it */
bool  again[WORKERS];       /* Redis said that the log is gone */

/* --- what may still go wrong --------------------------------------------------------------------------- */
byte  luck = FAULTS;

/* --- the reader, and what was ever written ------------------------------------------------------------- */
byte  newest_writer = 0;    /* the newest attempt that a reader was shown something of */
byte  dones = 0;            /* `done` events written */
bool  reader_over = false;
bool  reader_gap = false;   /* was told of a gap: its text is then the row's, whatever it was */
byte  reader_attempt = 0, reader_seq = 1, reader_texts = 0;

inline settle_once() {
    settled++; assert(settled == 1)                         /* I2 */
}

inline ring() {
    bell = true
}

inline end_reader() {
    reader_over = true;
    assert(is_terminal);                                       /* `done` comes after the commit */
#ifdef WHOLE_TEXT
    assert(reader_gap || reader_texts == stored_texts)      /* I4, I5 */
#endif
}

/* The reader takes an entry: shared/turn/replay.py, judge and follow. */
inline read(a, s, kind) {
    if
    :: reader_over -> skip
    :: else ->
        if
        :: (kind == SNAPSHOT && s > reader_seq) || s > reader_seq + 1 || (a > reader_attempt && s <= reader_seq) ->
            reader_gap = true; reader_attempt = a; reader_seq = s
        :: kind != SNAPSHOT && s == reader_seq + 1 && a >= reader_attempt ->
            reader_attempt = a; reader_seq = s;
            if
            :: kind == TEXT -> reader_texts++
            :: kind == RESET -> reader_texts = 0
            :: else -> skip
            fi
        :: else -> skip
        fi;
        if
        :: kind == DONE && reader_seq == s && reader_attempt == a -> end_reader()
        :: else -> skip
        fi
    fi
}

/* shared/redis/log_scripts.py: APPEND and RESTART, with the publication in the same step. */
inline execute(w, a, s, kind) {
    if
    :: log_gone && kind != SNAPSHOT ->
        if
        :: w < WORKERS && held[w] == a -> again[w] = true
        :: else -> skip
        fi
#ifndef NO_LOG_FENCE
    :: !log_gone && a < log_attempt ->
        if
        :: w < WORKERS && held[w] == a -> fenced[w] = true
        :: else -> skip
        fi
#endif
    :: !log_gone && a == log_attempt && s <= log_seq -> skip    /* a repeated append changes nothing */
    :: else ->
        assert(a >= newest_writer);                         /* I3: nothing of an older attempt any more */
        newest_writer = a;
        log_attempt = a; log_seq = s;
        if
        :: kind == TEXT -> log_texts++
        :: kind == RESET -> log_texts = 0
        :: kind == SNAPSHOT -> log_gone = false; log_is_whole = false
        :: kind == DONE -> dones++; assert(dones <= 1)      /* I2 */
        :: else -> skip
        fi;
        read(a, s, kind)
    fi
}

active proctype Redis() {
    byte a, s; mtype kind;
end:do
    :: atomic { wire0?a,s,kind -> execute(0, a, s, kind); a = 0; s = 0; kind = 0 }
    :: atomic { wire1?a,s,kind -> execute(1, a, s, kind); a = 0; s = 0; kind = 0 }
    :: atomic { wire2?a,s,kind -> execute(SWEEPER, a, s, kind); a = 0; s = 0; kind = 0 }
    od
}

inline cut(wire) {
    do
    :: nempty(wire) -> wire?_,_,_
    :: empty(wire) -> break
    od
}

/* Time and bad luck. A lease outlives the trust in it: LEASE_SECONDS > TRUST_SECONDS, both since the renewal. */
active proctype Nature() {
end:do
    :: atomic { luck_has(PAUSE) && trusted[0] && held[0] -> luck--; trusted[0] = false }
    :: atomic { luck_has(PAUSE) && trusted[1] && held[1] -> luck--; trusted[1] = false }
    :: atomic { is_active && lease && (owner == NOBODY || held[owner] != attempt || !trusted[owner]) -> lease = false }
    :: atomic { bell && luck_has(LOST_BELL) -> bell = false; luck-- }
    :: atomic { !log_gone && luck_has(LOST_LOG) ->               /* and with it the connections: what waited is sent again */
            luck--; log_gone = true; log_attempt = 0; log_seq = 0; log_texts = 0; log_is_whole = false;
            cut(wire0); cut(wire1); cut(wire2);
            again[0] = (held[0] > 0); again[1] = (held[1] > 0) }
    od
}

/* api/statements/accept.py and api/statements/turns.py */
active proctype Api() {
    accepted = true;
    ring();
    if
    :: skip                                                 /* nobody stops it */
    :: atomic {
            if
            :: status == QUEUED && attempt == 0 -> status = STOPPED; settle_once(); last_seq = last_seq + 1
            :: status == QUEUED && attempt > 0 ->           /* what was shown was reset: nothing is kept */
                status = STOPPED; settle_once(); stored_texts = 0; last_seq = last_seq + 1
            :: status == RUNNING -> status = STOPPING
            :: else -> skip
            fi
        }
    fi
}

inline write_owner(to) {
    assert(attempt == mine);                                /* I3 in PostgreSQL */
    status = to; lease = false; owner = NOBODY;
    assert(!billed[mine]);                                  /* I2: one ledger row per attempt */
    billed[mine] = called[mine];
    if
    :: to == QUEUED -> handed_back++; raise_at_end; last_seq = seq[me] + (shown[me] > 0 -> 1 : 0)
    :: else -> settle_once(); stored_texts = shown[me]; last_seq = seq[me] + 1
    fi
}

/* worker/turn/settle.py for an owner: one statement, guarded by the attempt. */
inline settle_owner(to) {
#ifdef NO_ATOMIC_SETTLE
    /* Mutant: read whether it may, then write. */
    may = (attempt == mine && (is_active && (to != QUEUED || status == RUNNING)));
    atomic {
        if
        :: may -> write_owner(to)
        :: else -> skip
        fi
    }
#else
    atomic {
        may =
#ifndef NO_ATTEMPT_CHECK
            attempt == mine &&
#endif
            is_active && (to != QUEUED || status == RUNNING);
        if
        :: may -> write_owner(to)
        :: else -> skip
        fi
    }
#endif
}

#ifdef CLAIM_LAPSED
#define can_be_claimed (status == QUEUED || (status == RUNNING && !lease))
#else
#define can_be_claimed (status == QUEUED)
#endif

/* What a process forgets when it dies, and when it is through with a turn. */
inline forget() {
    held[me] = 0; shown[me] = 0; seq[me] = 0; fenced[me] = false; asked[me] = false; again[me] = false;
    mine = 0; may = false; stands = false; outcome = 0
}

inline die() {
    luck--; forget(); trusted[me] = true                 /* a supervisor starts another in its place */
}

proctype Worker(byte me; chan wire) {
    byte mine = 0;
    bool may = false, stands = false;
    mtype outcome = 0;
    trusted[me] = true;
idle:
end:if                                                      /* the doorbell is gone, whatever follows; or comes twice */
    :: atomic { bell && (me == 0 || attempt > 0) -> bell = false }      /* who is first does not matter */
    :: atomic { bell && (me == 0 || attempt > 0) && luck_has(LOST_BELL) -> luck-- }
    fi;
    atomic {                                                /* claim_turn(): the row decides */
        if
        :: can_be_claimed -> attempt = claimed_attempt; status = RUNNING; mine = attempt; owner = me; lease = true;
              held[me] = mine; trusted[me] = true;
              assert(!called[mine - 1] || billed[mine - 1]) /* I2: what the attempt before cost is in the ledger */
        :: else -> goto idle
        fi
    }
    atomic {                                                /* Publisher.take_over() and open() */
        stands = (mine > 1 && (log_texts > 0 || !log_is_whole || log_seq < last_seq));
        if
        :: mine > log_attempt && mine > 1 -> log_attempt = mine
        :: else -> skip
        fi;
#ifdef NO_RESET_AT_START
        stands = false;
#endif
        if
        :: log_gone -> log_gone = false; log_seq = 1
        :: else -> skip
        fi;
        seq[me] = (log_seq > last_seq -> log_seq : last_seq);
        seq[me] = (saved_seq > seq[me] -> saved_seq : seq[me])
    }
    if
    :: atomic { trusted[me] && !fenced[me] && nfull(wire) -> seq[me]++; wire!mine,seq[me],(stands -> RESET : START); called[mine] = true }
    :: fenced[me] -> goto drop
    fi;
stream:
    do
    :: fenced[me] -> goto drop
    :: atomic { luck_has(DEATH) -> die(); goto idle }
    :: atomic { trusted[me] && !fenced[me] && shown[me] < TEXTS && nfull(wire) && !again[me] ->
            seq[me]++; shown[me]++; wire!mine,seq[me],TEXT }
    :: atomic { again[me] && owner == me && attempt == mine && is_active && nfull(wire) && trusted[me] ->
            again[me] = false; wire!mine,seq[me],SNAPSHOT } /* Publisher._restart(): asks PostgreSQL first */
    :: atomic { again[me] && !(owner == me && attempt == mine && is_active) -> fenced[me] = true }
    :: shown[me] == TEXTS -> outcome = COMPLETED; break
    :: asked[me] -> outcome = STOPPED; break
    :: atomic { luck_has(DRAIN) -> luck--; outcome = QUEUED }; break
    od;
    settle_owner(outcome);
    if
    :: !may -> goto drop
    :: else -> skip
    fi;
    if                                                      /* tell, or die between commit and `done` */
    :: atomic { luck_has(DEATH) -> die(); goto idle }
    :: atomic { trusted[me] && nfull(wire) && outcome != QUEUED -> wire!mine,(seq[me] + 1),DONE }
    :: atomic { trusted[me] && nfull(wire) && outcome == QUEUED && shown[me] > 0 -> wire!mine,(seq[me] + 1),RESET }
    :: outcome == QUEUED && shown[me] == 0
    :: atomic { fenced[me] || again[me] } -> skip           /* the row tells it in place of the log */
    fi;
    atomic { if :: outcome == QUEUED -> ring() :: else fi }
drop:
    atomic { forget(); trusted[me] = true }
    goto idle
}

/* worker/recovery/leases.py, a thread of each worker: one round, where it brings news. */
proctype Leases(byte me) {
end:do
    :: atomic { held[me] && owner == me && held[me] == attempt && is_active &&
                (!trusted[me] || !lease || (status == STOPPING && !asked[me])) ->
            lease = true; trusted[me] = true; asked[me] = (status == STOPPING);
            saved_attempt = held[me]; saved_seq = seq[me]; saved_texts = shown[me] }
    :: atomic { held[me] && !fenced[me] && !(owner == me && held[me] == attempt && is_active) ->
            fenced[me] = true; trusted[me] = true }
    od
}

/* worker/recovery/sweeper.py. The advisory lock makes it one. */
active proctype Sweeper() {
    byte found = 0, texts = 0, next = 0, writer = 0;
    mtype was = 0, outcome = 0;
    bool may = false;
end:do
    :: atomic { accepted && status == QUEUED && !bell -> ring() }
    :: atomic { accepted && status == QUEUED && attempt == 0 ->
            status = EXPIRED; settle_once(); last_seq = last_seq + 1 }
    :: atomic { is_active && !lease ->                         /* lost_turns, _LEFT_BEHIND */
            found = attempt; was = status; texts = (saved_attempt == found -> saved_texts : 0);
            next = (saved_seq > last_seq -> saved_seq : last_seq);
            if                                              /* what the log knows more */
            :: !log_gone && log_is_whole && log_seq >= next -> next = log_seq; texts = log_texts
            :: luck_has(DEAF) -> luck--
            :: log_gone || !log_is_whole || log_seq < next
            fi;
            if
            :: was == STOPPING -> outcome = STOPPED
            :: was == RUNNING && found - handed_back >= ATTEMPTS -> outcome = FAILED
            :: was == RUNNING && found - handed_back < ATTEMPTS -> outcome = QUEUED
            :: was == RUNNING && texts > 0 -> outcome = FAILED      /* recovery: fail */
            fi }
        atomic {                                            /* settle(lost_to=…) */
            may = (attempt == found && is_active && !lease && (outcome != QUEUED || status == RUNNING));
            if
            :: may ->
                status = outcome; owner = NOBODY;
                assert(!billed[found]);
                billed[found] = called[found];
                raise_at_end;
                writer = attempt;
                if
                :: outcome == QUEUED && (texts > 0) -> next++; last_seq = next
                :: outcome == QUEUED && !(texts > 0) -> last_seq = next
                :: outcome != QUEUED -> settle_once(); stored_texts = texts; next++; last_seq = next
                fi
            :: else -> skip
            fi
        }
        if
        :: !may || (outcome == QUEUED && !(texts > 0))
        :: may && luck_has(DEATH) -> luck--
        :: atomic { may && outcome == QUEUED && (texts > 0) && nfull(wire2) -> wire2!writer,next,RESET }
        :: atomic { may && outcome != QUEUED && nfull(wire2) -> wire2!writer,next,DONE }
        fi;
        atomic { found = 0; texts = 0; next = 0; writer = 0; was = 0; outcome = 0; may = false }
    od
}

#define has_all_but_done (reader_attempt == attempt && (reader_seq + 1 == last_seq || reader_seq == last_seq))

/* A silence: the relay asks the row, whose word is the last. shared/turn/replay.py, _finish. */
active proctype Reader() {
end:atomic { is_terminal && !reader_over && empty(wire0) && empty(wire1) && empty(wire2) ->
        if
        :: !has_all_but_done -> reader_gap = true
        :: else -> skip
        fi;
        reader_seq = last_seq; reader_attempt = attempt;
        end_reader()
    }
}

init {
    atomic {
        run Worker(0, wire0); run Leases(0);
        run Worker(1, wire1); run Leases(1);
    }
}

ltl ends { <> (is_terminal && reader_over) }
