"""What cannot run is refused by the binary itself: at once, in one sentence, with exit code 2, and
nothing is written."""

import pytest

from tests.machinery import commands

_DISTRAL = ("--suite=maze8", "--noalone")
_GAMES = ("--suite=small_games:catch,rain",)

CASES = [
    ("morph", ("--learning_rate=nan",), "learning_rate must be above 0; got nan"),
    ("morph", ("--noise=1e400",), "noise must be finite and not negative; got inf"),
    ("supervised", ("--learning_rate=nan",), "learning_rate must be above 0; got nan"),
    ("supervised", ("--learning_rate=0",), "learning_rate must be above 0; got 0.0"),
    ("supervised", ("--surgery=",), "--surgery must be some of"),
    ("supervised", ("--surgery=mgda,mgda",), "--surgery must name each once; got 'mgda' twice"),
    (
        "distral",
        (*_DISTRAL, "--config_overrides=alpha=0.5,alpha=0.6"),
        "--config_overrides: alpha is given twice",
    ),
    (
        "distral",
        (*_DISTRAL, "--config_overrides=unroll_length=0"),
        "unroll_length must be at least 1; got 0",
    ),
    ("distral", ("--total_env_steps=many",), "flag --total_env_steps=many"),
    ("distral", ("--no_such_flag",), "Unknown command line flag 'no_such_flag'"),
    ("distral", ("--seed",), "seed"),
    (
        "distral.compare",
        ("--suite=maze8", "--out=../0.err/x.png"),
        "--out: ../0.err cannot be written: Not a directory",
    ),
    ("distral.compare", ("--suite=maze8", "--out=x"), "--out must end in .png or .pdf or .svg"),
    ("distral.compare", ("--suite=maze8", "--algorithms="), "--algorithms must be some of"),
    (
        "distral.robustness",
        ("--entropy_costs=1e-3,nan",),
        "--entropy_costs must hold finite numbers; got '1e-3,nan'",
    ),
    ("distral.robustness", ("--eval_every=10",), "--eval_every means nothing here"),
    ("distral.compare", ("--suite=maze8", "--out="), "--out must not be empty"),
    ("dqn", ("--workdir=",), "--workdir must not be empty"),
    (
        "dqn",
        ("--suite=small_games:catch", "--keep_best=return"),
        "keep_best must be one of eval/task_policy/return, ",
    ),
    (
        "dqn",
        (*_GAMES, "--task_weights=snake=2"),
        "--task_weights: 'snake' is no task of the suite; it has catch, rain",
    ),
    ("dqn", (*_GAMES, "--task_weights=nan,1"), "task_weights must not be negative; got nan"),
    ("dqn", (*_GAMES, "--freeze=conv"), "freeze: 'conv' names no parameter; there are shared/head"),
    ("dqn", (*_GAMES, "--begin_from=nowhere"), "--begin_from: nowhere: is not a directory"),
    (
        "episodic",
        (*_GAMES, "--config_overrides=capacity=10"),
        "neighbours must not exceed capacity = 10; got 11",
    ),
    ("episodic", (*_GAMES, "--config_overrides=capacity=2000000000"), "GiB are free; at most"),
    ("episodic", ("--suite=mt10",), "suite must have discrete actions for MFEC"),
    (
        "episodic",
        (*_GAMES, "--embedding=nowhere"),
        "embedding must be projection, identity or a directory; got 'nowhere'",
    ),
    ("episodic", (*_GAMES, "--algorithm=nec", "--embedding=identity"), "means nothing to nec"),
    (
        "episodic",
        (*_GAMES, "--algorithm=nec", "--config_overrides=capacity=2000000000"),
        "GiB are free; at most",
    ),
    ("evaluate", ("--workdir=.", "--step=-1"), "--step must be "),
    (
        "evaluate",
        ("--workdir=.", "--episodes=99999999999"),
        "--episodes must be at most 2147483647",
    ),
    (
        "metaworld",
        ("--benchmark=reach", "--final_episodes=99999999999"),
        "--final_episodes must be at most 2147483647",
    ),
    (
        "distral.robustness",
        ("--learning_rates=",),
        "--learning_rates must hold finite numbers; got ''",
    ),
    ("distral.robustness", ("--out=/dev/null/x.png",), "--out: /dev/null cannot be written"),
    (
        "distral.tabular",
        ("--workdir=/proc/no/folder",),
        "--workdir: /proc/no/folder cannot be written: ",
    ),
    ("distral", ("--suite=maze8:size=3", "--noalone"), "suite 'maze8:size=3' takes no options"),
    (
        "metaworld",
        ("--benchmark=envpool:Hopper-v4,HalfCheetah-v4",),
        "float32 [11] and float32 [17]; --pad makes one suite of them",
    ),
    (
        "dqn",
        ("--suite=envpool:CartPole-v1,Pong-v5", "--pad"),
        "CartPole-v1 and Pong-v5 cannot be padded to one shape: observations are float32 and uint8",
    ),
    ("dqn", ("--suite=not_here:make",), "suite 'not_here:make' cannot be loaded: No module named"),
    ("dqn", ("--network=deep",), "network must be one of blind, onehot"),
    (
        "dqn",
        ("--network=tests.machinery.own_networks:Narrow",),
        "must return floats [B, size] = [3, 6]; got float32 [3, 5]",
    ),
    (
        "metaworld",
        ("--benchmark=reach", "--network=tests.machinery.own_networks:Nameless"),
        "must have the fields num_tasks, hidden, size; it lacks num_tasks, hidden",
    ),
    ("metaworld", ("--benchmark=ml10:goal=seen",), "goal must be one of visible, hidden"),
    ("benchmark", ("--suite=numpy:zeros", "--agent=ppo"), "suite 'numpy:zeros' "),
    ("metaworld.compare", ("--surgeries=mean,mean",), "--surgeries must name each once"),
    ("distill", ("--temperature=0",), "temperature must be above 0; got 0.0"),
    ("distill", ("--share=nan",), "--share must be above 0; got nan"),
    (
        "distill.actor_mimic",
        ("--feature_costs=inf",),
        "--feature_costs must hold finite numbers; got 'inf'",
    ),
    ("benchmark", ("--agent=os:system",), "agent 'os:system' is a function of Python itself"),
    ("benchmark", ("--agent=numpy:zeros",), "agent 'numpy:zeros' cannot be made: TypeError: "),
    ("benchmark", ("--agent=",), "--agent must hold at least one name; got ''"),
    ("benchmark", ("--agent=ppo,ppo",), "--agent must name each once; got 'ppo' twice"),
    (
        "benchmark",
        ("--agent=ppo", "--config_overrides=minibatches=7"),
        "minibatches must divide unroll_length = 64; got 7",
    ),
    ("beta_vae", ("--suite=small_games:catch",), "must show images, uint8 (C, H, W); got "),
    ("beta_vae", ("--images=none.npz",), "--images: none.npz cannot be read as .npz: "),
    ("beta_vae", ("--images=x.npz", "--suite=rooms"), "--images and --suite exclude each other"),
    ("beta_vae", ("--beta=nan",), "beta must not be negative; got nan"),
    ("few_shot", ("--method=pearl",), "--method must be some of maml, rl2, finetune, scratch"),
    ("few_shot", ("--curve=5,1",), "curve must hold rising numbers of episodes from 0 on"),
    ("few_shot", ("--config_overrides=maml.rate=-1",), "rate must not be negative; got -1.0"),
    ("few_shot", ("--method=rl2", "--first_order"), "--first_order is of maml"),
    ("few_shot", ("--tasks=mazes",), "--tasks must be one of bandits, mdps, navigation, ml1:<env"),
    ("few_shot", ("--tasks=ml1:raech",), "Meta-World has no task 'raech'; the nearest are reach"),
    ("few_shot", ("--tasks=ml10", "--test_tasks=7"), "test_tasks must be a multiple of 5 env"),
    ("auxiliary", ("--auxiliary=pixels",), "--auxiliary must be some of none, pixel_control,"),
    ("auxiliary", ("--combine=mgda",), "--combine must be some of sum, gradient_cosine, pcgrad,"),
    (
        "auxiliary",
        ("--combine=auxilearn", "--num_envs_per_task=1"),
        "num_envs_per_task must be at least 2 a device for combine=auxilearn",
    ),
    ("auxiliary", ("--suite=maze8",), "auxiliaries are of images (C, H, W) and discrete actions"),
    (
        "auxiliary",
        ("--config_overrides=cell=40",),
        "cell must fit into 32 pixels less two margins of 0: 40",
    ),
    ("continual", ("--method=ewc,x",), "--method must be some of finetune, l2, ewc,"),
    ("continual", ("--sequence=small_games:catch",), "--sequence must have at least two tasks"),
    ("continual", ("--told=false", "--method=packnet"), "method packnet must be told where"),
    ("continual", ("--method_overrides=ewc=nan",), "ewc must not be negative; got nan"),
    ("continual", ("--algorithm=sac",), "suite must have continuous actions for SAC; got disc"),
    ("continual", ("--suite=small_games",), "--suite means nothing here"),
    (
        "benchmark.report",
        ("--results=x", "--continual=none"),
        "--continual: none holds no numbers of a finished experiments.continual",
    ),
    ("transporter", ("--condition=goal",), "--condition must be some of none, final, sequence"),
    ("transporter", ("--sampling=",), "--sampling must be some of uniform, weighted; got ''"),
    ("transporter", ("--floor=1.5",), "floor must lie in [0, 1]; got 1.5"),
    ("transporter", ("--learning_rate=nan",), "learning_rate must be above 0; got nan"),
    ("transporter", ("--seed=2147483647",), "seed + num_seeds must be at most 2147483647"),
    ("offline", ("--rule=all,some",), "--rule must be some of none, all, hipi"),
    ("offline", ("--own=expert",), "--own must be <level>:<episodes>, with + between several"),
    ("offline", ("--suite=maze8",), "suite maze8: data can be shared between tasks only if"),
    ("offline", (), "data/random.npz is no file; --record makes one"),
    ("offline", ("--record", "--updates=5"), "--updates means nothing here"),
    ("offline", ("--record", "--from_run=here"), "here/config.json is not a readable run"),
    ("offline", ("--data=x", "--episodes=3"), "--episodes means nothing here"),
    ("benchmark.report", ("--results=x", "--out=x.png"), "--out must end in .html; got x.png"),
    ("evaluate", ("--workdir=.", "--seed=99999999999"), "--seed must be at most 2147483647"),
]


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> list[commands.Ended]:
    cases = [(module, *arguments) for module, arguments, _ in CASES]
    return commands.forked(tmp_path_factory.mktemp("bad"), cases)


@pytest.mark.parametrize("n", range(len(CASES)), ids=lambda n: " ".join(CASES[n][:1] + CASES[n][1]))
def test_refused_at_once_in_one_sentence(n, ended):
    code, out, err, left = ended[n]
    assert CASES[n][2] in err
    assert (code, out, left) == (2, "", [])
    assert err.startswith("error: ") and err.count("\n") == 1
